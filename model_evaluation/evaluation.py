"""The rows and the model that all steps of an evaluation share.

    evaluation = Evaluation(StepConfig(split="test"))
    evaluation.cache.predict_missing(evaluation.rows.texts)
    evaluation.predictions(evaluation.rows)  # `Predictions` of the N evaluated rows

The rows are those of the adapter's own run, of a data set, or of a file.
"""

from functools import cached_property
from pathlib import Path

import numpy as np

from configs.evaluation_config import EvaluationConfig, MetricsConfig, StepConfig
from configs.training_config import DataConfig
from data.data_loader import load_splits
from data.dataset import LABEL_NAMES, Rows, stratified_sample
from data.labels import given_labels
from data.seen_texts import seen_mask
from data.sources.review_files import read_labelled_file
from modeling.adapter_folder import SentimentConfig, read_run_info
from modeling.fingerprint import model_fingerprint, settings_fingerprint
from prediction.prediction_cache import PredictionCache
from prediction.prediction_set import Predictions
from runtime.errors import UserError
from runtime.run_info import environment


class Evaluation:
    """An adapter and the rows it is evaluated on; each of them is loaded when it is first asked for.

    `failures` maps the name of a step to what went wrong in it.
    """

    def __init__(self, config: StepConfig):
        self.config = config
        self.output = Path(config.output_dir)
        self.sentiment = self.load_sentiment()
        self.failures: dict[str, str] = {}

    def load(self) -> None:
        """Load the rows and what was predicted before, so that a mistake in them ends the run before its first step."""
        _ = self.rows
        _ = self.cache

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
    def cache(self) -> PredictionCache:
        """The model's logits by text; the model is loaded only if a text is missing."""
        return PredictionCache(self.output, self.fingerprint(), self.load_predictor, fresh=self.config.fresh)

    def predictions(self, rows: Rows) -> Predictions:
        """The cached predictions for `rows`; KeyError for a text that no step has asked for."""
        return Predictions(rows.texts, self.cache.logits(rows.texts), rows.labels)

    def provenance(self) -> dict:
        """The keys of a result file that say where its figures come from: environment, model and data."""
        return {
            "environment": environment(),
            "model_path": self.model_description(),
            "model_fingerprint": self.cache.fingerprint,
            "data": {
                "source": self._data_source(),
                "split": self.config.split,
                "fingerprint": self.rows.fingerprint(),
                "n": len(self.rows),
            },
        }

    def _data_source(self) -> str:
        """The file or data set that the evaluated rows are from."""
        named = self.config.test_file or self.config.dataset
        if named:
            return named
        trained_on = read_run_info(self.config.model_path)["config"]
        if not trained_on.get("train_file"):
            return trained_on.get("dataset", DataConfig.dataset)
        return trained_on.get(f"{self.config.split}_file") or trained_on["train_file"]

    # The model: an adapter here, a base without one in `ZeroShotEvaluation`.

    def load_sentiment(self) -> SentimentConfig:
        """The model's labels, prompt, precision and length of input."""
        return SentimentConfig.load(self.config.model_path)

    def load_predictor(self):
        """The model itself, with a `SentimentPredictor`'s methods."""
        from prediction.predictor import SentimentPredictor

        return SentimentPredictor(self.config.base_model_name, self.config.model_path)

    def fingerprint(self) -> str:
        """Hex digits that change with anything that changes the model's logits."""
        return model_fingerprint(self.config.model_path, self.config.base_model_name)

    def seen(self, texts: list[str]) -> np.ndarray:
        """Mark the texts that the model was trained on: (N,) bool."""
        return seen_mask(self.config.model_path, texts)

    def model_description(self) -> str:
        """The model as the result files name it."""
        return self.config.model_path


class ZeroShotEvaluation(Evaluation):
    """The evaluation of a base without adapter, which has seen no training rows."""

    config: MetricsConfig

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

    def load_predictor(self):
        from prediction.zero_shot import ZeroShotPredictor

        return ZeroShotPredictor(self.sentiment, contextual_calibration=self.config.contextual_calibration)

    def fingerprint(self) -> str:
        return settings_fingerprint(self.sentiment, contextual_calibration=self.config.contextual_calibration)

    def seen(self, texts: list[str]) -> np.ndarray:
        return np.zeros(len(texts), dtype=bool)

    def model_description(self) -> str:
        calibrated = "，contextual calibration" if self.config.contextual_calibration else ""
        return f"{self.config.model_name}（零样本{calibrated}）"


def evaluation_rows(config: EvaluationConfig, labels: list[str]) -> Rows:
    """The rows to evaluate on, cut to `max_samples` if asked; their label ids are positions in `labels`."""
    if config.test_file:
        rows = read_labelled_file(Path(config.test_file), config.text_column, config.label_column, labels)
    else:
        splits = evaluation_splits(config, labels)
        if config.split not in splits:
            raise UserError(f"数据里没有 {config.split} 部分（有 {'、'.join(splits)}）；用 --split 或 --test_file 指定")
        rows = splits[config.split]
    if config.max_samples is None:
        return rows
    return stratified_sample(rows, config.max_samples, config.seed)


def evaluation_splits(config: EvaluationConfig, labels: list[str]) -> dict[str, Rows]:
    """All splits of `--dataset`, or else of the data that the adapter was trained on."""
    if config.dataset:
        return load_splits(
            DataConfig(
                dataset=config.dataset,
                labels=labels,
                text_column=config.text_column,
                label_column=config.label_column,
            )
        )
    return training_splits(config.model_path)


def training_splits(model_path: str) -> dict[str, Rows]:
    """The splits that the adapter was trained with; a `UserError` if the data has changed since."""
    info = read_run_info(model_path)
    fields = DataConfig.__dataclass_fields__
    splits = load_splits(DataConfig(**{name: value for name, value in info["config"].items() if name in fields}))
    changed = [name for name, rows in splits.items() if rows.fingerprint() != info["data_fingerprint"].get(name)]
    if changed:
        raise UserError(
            f"训练 {model_path} 时的数据已经变了（{'、'.join(changed)} 部分不同）；"
            "用 --dataset 或 --test_file 指定要评估的数据"
        )
    return splits
