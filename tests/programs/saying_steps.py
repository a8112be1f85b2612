"The training command, which says each step that it has taken."

import cxrclip_nb.training.loop as loop


class SayingSteps(loop.Trainer):
    def _take_step(self, *args):
        super()._take_step(*args)
        print('step', self.step, flush=True)


if __name__ == '__main__':
    loop.Trainer = SayingSteps
    loop.main()
