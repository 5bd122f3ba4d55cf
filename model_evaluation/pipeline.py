"""What the evaluation scripts share: the rows, the model's answers to all texts, and the order of things.

    evaluation = Evaluation(config)
    seconds = run_steps(evaluation, [METRICS, CONFIDENCE])

Every step first says which texts it needs; the model then reads all of them, each once; then the steps compute.
"""

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from configs.command_line import help_text, parse_config
from configs.evaluation_config import StepConfig
from data.dataset import LABEL_NAMES, Rows
from data.labels import given_labels
from data.seen_texts import seen_mask
from model_evaluation.evaluation import evaluation_rows, evaluation_splits, training_splits
from model_evaluation.robustness.behaviour_suite import load_suite
from model_evaluation.robustness.scores import RobustnessPlan, plan_robustness
from modeling.adapter_folder import SentimentConfig, read_run_info
from modeling.fingerprint import model_fingerprint, settings_fingerprint
from prediction.prediction_cache import Answers
from prediction.prediction_set import Predictions
from runtime.errors import UserError, is_out_of_memory, out_of_memory_message
from runtime.run_info import environment


class Evaluation:
    """Everything that the steps of one evaluation read; each piece is made when it is first asked for."""

    def __init__(self, config: StepConfig):
        self.config, self.output = config, Path(config.output_dir)
        self.sentiment = self.load_sentiment()
        self.failures: dict[str, str] = {}  # step -> what went wrong

    def load_sentiment(self) -> SentimentConfig:
        return SentimentConfig.load(self.config.model_path)

    def load(self) -> None:
        """Meet a mistake in what all steps need (files, columns, the base's name) before the first of them."""
        _ = self.rows, self.answers

    @cached_property
    def rows(self) -> Rows:
        """The evaluated rows, sampled if asked."""
        return evaluation_rows(self.config, self.sentiment.labels)

    @cached_property
    def validation(self) -> Rows:
        """All validation rows, never sampled: of `--dataset`, or else of the data that the adapter was trained on."""
        if self.config.test_file:
            return training_splits(self.config.model_path)["validation"]
        return evaluation_splits(self.config, self.sentiment.labels)["validation"]

    @cached_property
    def robustness_plan(self) -> RobustnessPlan:
        from tqdm import tqdm

        def bar(kinds):
            return tqdm(kinds, desc="改写评论", unit="种", leave=False)

        rows, options = self.rows, {"seed": self.config.seed, "progress": bar}
        return plan_robustness(rows.texts, rows.labels, load_suite(), label_names=rows.label_names, **options)

    @cached_property
    def answers(self) -> Answers:
        return Answers(self.output, self.fingerprint(), self.load_predictor, fresh=self.config.fresh)

    def fingerprint(self) -> str:
        return model_fingerprint(self.config.model_path, self.config.base_model_name)

    def seen(self, texts: list[str]) -> np.ndarray:
        """(N,) bool: which texts the model was trained on."""
        return seen_mask(self.config.model_path, texts)

    def load_predictor(self):
        from prediction.predictor import SentimentPredictor

        return SentimentPredictor(self.config.base_model_name, self.config.model_path)

    def predictions(self, rows: Rows) -> Predictions:
        """The model's answers to rows whose texts are prepared."""
        return Predictions(rows.texts, self.answers(rows.texts), rows.labels)

    def described(self) -> dict:
        """What each result file says about where it comes from."""
        return {
            "environment": environment(),
            "model_path": self.described_model(),
            "model_fingerprint": self.answers.fingerprint,
            "data": {
                "source": self._source(),
                "split": self.config.split,
                "fingerprint": self.rows.fingerprint(),
                "n": len(self.rows),
            },
        }

    def described_model(self) -> str:
        return self.config.model_path

    def _source(self) -> str:
        """The file or data set that the evaluated rows are from."""
        if named := self.config.test_file or self.config.dataset:
            return named
        trained_on = read_run_info(self.config.model_path)["config"]
        files = (trained_on.get(f"{self.config.split}_file"), trained_on["train_file"])
        return next(filter(None, files)) if trained_on["train_file"] else trained_on["dataset"]


class ZeroShotEvaluation(Evaluation):
    """The same of a base without adapter; it has seen no training rows. `config` is a `MetricsConfig`."""

    def load_sentiment(self) -> SentimentConfig:
        from prediction.zero_shot import zero_shot_config

        config = self.config
        return zero_shot_config(
            config.model_name,
            labels=given_labels(config.labels) if config.labels else LABEL_NAMES,
            label_words=config.label_words,
            prompt_template=config.prompt_template,
            max_length=config.max_length,
            quantize=config.load_in_4bit,
        )

    def fingerprint(self) -> str:
        return settings_fingerprint(self.sentiment, contextual_calibration=self.config.contextual_calibration)

    def load_predictor(self):
        from prediction.zero_shot import ZeroShotPredictor

        return ZeroShotPredictor(self.sentiment, contextual_calibration=self.config.contextual_calibration)

    def seen(self, texts: list[str]) -> np.ndarray:
        return np.zeros(len(texts), dtype=bool)

    def described_model(self) -> str:
        calibrated = "，contextual calibration" if self.config.contextual_calibration else ""
        return f"{self.config.model_name}（零样本{calibrated}）"


@dataclass(frozen=True)
class Step:
    """`texts` says what the model must read; `run` writes the step's `file` and returns lines for the terminal."""

    name: str
    title: str
    file: str
    texts: Callable[[Evaluation], list[str]]
    run: Callable[[Evaluation], str]


def predict_once(evaluation: Evaluation, texts: list[str]) -> None:
    """The one run of the model: over all distinct texts that no earlier run has answered."""
    answers = evaluation.answers
    answers.prepare(texts, progress="预测")
    answers.save(evaluation.rows)
    counts = answers.counts()
    reused = counts["distinct_texts"] - counts["predicted_texts"]
    print(
        f"需要 {counts['requested_texts']:,} 个回答，不同的文本 {counts['distinct_texts']:,} 条："
        f"模型读了 {counts['predicted_texts']:,} 条（{counts['seconds']:.1f} 秒），沿用上次的预测 {reused:,} 条",
        flush=True,
    )


def run_single(step: Step, title: str, docstring: str) -> None:
    """The script of one step; its errors go to the caller."""
    (config,) = parse_config([StepConfig], None, description=help_text(title, docstring))
    print("正在载入……", flush=True)
    run_step(step, Evaluation(config))


def run_step(step: Step, evaluation: Evaluation) -> None:
    """One step with the run of the model that it needs."""
    predict_once(evaluation, step.texts(evaluation))
    print(step.run(evaluation))
    print(f"\n结果写在 {evaluation.output / step.file}")


def run_steps(evaluation: Evaluation, steps: list[Step]) -> dict[str, float]:
    """All steps; one that fails is noted in `evaluation.failures`, and the others go on. Seconds of those done."""
    texts: list[str] = []
    for step in steps:
        with _noting_failure(evaluation, step):
            texts += step.texts(evaluation)
    if texts:
        predict_once(evaluation, texts)
    done = {}
    for number, step in enumerate(steps, 1):
        print(f"\n[{number}/{len(steps)}] {step.title}", flush=True)
        if step.name in evaluation.failures:
            print(f"跳过：{evaluation.failures[step.name]}", flush=True)
            continue
        start = time.perf_counter()
        with _noting_failure(evaluation, step):
            print(step.run(evaluation), flush=True)
            done[step.name] = time.perf_counter() - start
    return done


@contextmanager
def _noting_failure(evaluation: Evaluation, step: Step) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever it is, the other steps can still be done
        message = str(error) or type(error).__name__
        if is_out_of_memory(error):
            message = out_of_memory_message(error)
        elif not isinstance(error, UserError):
            traceback.print_exc()
        evaluation.failures[step.name] = message
        print(f"「{step.title}」失败：{evaluation.failures[step.name]}", file=sys.stderr, flush=True)
