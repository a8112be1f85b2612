# The five habits. `make check` is what the gate runs after installing.
PY ?= python

export:        ## notebooks -> package
	nbdev_export

clean:         ## drop metadata and execution counts from the notebooks
	nbdev_clean

outputs:       ## run the notebooks and store what they show: make outputs NBS=nbs/40_infonce.ipynb
	TQDM_DISABLE=1 $(PY) tools/exec_nbs.py $(NBS)
	$(PY) tools/make_readme.py nbs/index.ipynb README.md

test:          ## notebooks, then what does not belong in one
	nbdev_test --n_workers 2
	pytest -q tests

check: clean export   ## is everything made from the notebooks in step with them?
	$(PY) tools/make_readme.py nbs/index.ipynb README.md
	$(PY) tools/lint_nbs.py
	git diff --exit-code

.PHONY: export clean outputs test check
