# The habits of CONTRIBUTING.md. `make check` is what the gate runs after installing.
PY ?= python
CODE = nbs tools tests conftest.py

export:        ## notebooks -> package
	nbdev_export

format:        ## line breaks and order of imports
	ruff check -q --select I --fix $(CODE)
	ruff format -q $(CODE)

clean:         ## drop metadata and execution counts from the notebooks
	nbdev_clean

outputs:       ## run the notebooks and store what they show: make outputs NBS=nbs/3_losses/30_infonce.ipynb
	$(PY) tools/exec_nbs.py $(NBS)
	$(PY) tools/make_readme.py nbs/index.ipynb README.md

LOOK = 0_start/00_paper 0_start/01_tour 1_pairs/11_phantoms 3_losses/30_infonce \
	3_losses/34_objective
look:          ## stored notebooks as pages in a browser: widths, and screenshots
	$(PY) tools/look.py $(or $(NBS),$(LOOK:%=nbs/%.ipynb))

phantom_model: ## train the model of data/phantom_model anew: minutes
	cxrclip-train --output_dir runs/phantom_model
	$(PY) tools/phantom_model.py runs/phantom_model data/phantom_model

test:          ## notebooks, then what does not belong in one
	nbdev_test --n_workers 2
	pytest -q tests

form:          ## lines, names, layers, and what no other tool checks of a notebook
	ruff format --check -q $(CODE)
	ruff check $(CODE)
	lint-imports
	$(PY) tools/lint_nbs.py

site:          ## _site/html from the stored notebooks and docstrings, nothing executed (needs the extra docs)
	rm -rf _site
	$(PY) tools/site/prepare.py _site/source
	$(PY) -m sphinx -q -W --keep-going -j 2 -c tools/site -d _site/doctrees _site/source _site/html
	$(PY) tools/check_site.py _site/html

lowest:        ## are the lower bounds of settings.ini true? all notebooks and tests under them (Python 3.10, 9 GB, 15 minutes)
	$(PY) tools/lowest.py

check: clean export form   ## is everything made from the notebooks in step with them?
	$(PY) tools/make_readme.py nbs/index.ipynb README.md
	git diff --exit-code

.PHONY: export format clean outputs look phantom_model test form site lowest check
