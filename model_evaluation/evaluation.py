"""The rows and the model that all steps of an evaluation share.

    evaluation = Evaluation(StepConfig(split="test"))
    evaluation.cache.predict_missing(evaluation.rows.texts)
    evaluation.predictions(evaluation.rows)  # `Predictions` of the N evaluated rows

The rows are those of the adapter's own run, of a data set, or of a file.
"""

import dataclasses
from functools import cached_property
from pathlib import Path

import numpy as np

from configs.evaluation_config import DEFAULT_OUTPUT, ZERO_SHOT_OUTPUT, EvaluationConfig, MetricsConfig, StepConfig
from configs.fields import AUTO
from configs.training_config import DataConfig
from data.audit.corrections import corrected
from data.data_loader import fingerprints, load_splits
from data.dataset import LABEL_NAMES, Rows, stratified_sample
from data.labels import given_labels, named_sentiments
from data.polarity import Polarity, polarity_of
from data.seen_texts import seen_mask
from data.sources.label_map import read_label_map
from data.sources.review_files import read_labelled_file
from model_evaluation.runs.folders import adapter_name, open_run, publish, run_name
from modeling.adapter_folder import RUN_INFO, SentimentConfig, read_object, read_run_info
from modeling.fingerprint import model_fingerprint, settings_fingerprint
from prediction.prediction_cache import KEY_FILE, PredictionCache
from prediction.prediction_set import Predictions
from prediction.training_data import training_splits
from runtime.errors import UserError
from runtime.run_info import environment


class Evaluation:
    """An adapter and the rows it is evaluated on; each of them is loaded when it is first asked for.

    `failures` maps the name of a step to what went wrong in it.
    """

    def __init__(self, config: StepConfig):
        self.config = config
        self.sentiment = self.load_sentiment()
        self.failures: dict[str, str] = {}
        # Runs in the default folder have folders of their own; `--output_dir` is taken by its word.
        self.has_own_folder = Path(config.output_dir) in (Path(DEFAULT_OUTPUT), Path(ZERO_SHOT_OUTPUT))

    @cached_property
    def output(self) -> Path:
        """The folder of the result files."""
        folder = Path(self.config.output_dir)
        if not self.has_own_folder:
            return folder
        split = None if self.config.test_file else self.config.split
        parts = (self.short_name(), Path(self.data_source()).stem, split, self.config.max_samples)
        return folder / run_name(parts, [self.fingerprint, self.rows.fingerprint()])

    @property
    def ordinal(self) -> bool:
        """Whether the labels are a scale: the flag's word, or else the adapter's."""
        return self.sentiment.ordinal if self.config.ordinal is None else self.config.ordinal

    def load(self, replaced: list[str]) -> None:
        """Load the rows and what was predicted before, so that a mistake in them ends the run before its first step.

        Claims the folder for this model, which is going to write the files `replaced`.
        """
        _ = self.rows
        _ = self.cache
        _ = self.polarity
        open_run(self.output, self.provenance() | self.settings(), replaced)

    def publish(self) -> None:
        """Let the default folder show this run; says where."""
        if self.has_own_folder:
            publish(self.output)
            print(f"最近一次评估的文件也在 {self.config.output_dir}")

    @cached_property
    def splits(self) -> dict[str, Rows]:
        """The rows that can be evaluated, by split; those of `--test_file` are a test split."""
        return evaluation_splits(self.config, self.sentiment.labels)

    @property
    def polarity(self) -> Polarity | None:
        """The label ids of the two sentiments: as the flags say, or else as the adapter remembers."""
        config, labels = self.config, self.sentiment.labels
        if config.negative_label is None:
            return self.sentiment.polarity
        return polarity_of(labels, named_sentiments(config.negative_label, config.positive_label, labels))

    @cached_property
    def rows(self) -> Rows:
        """The evaluated rows, sampled if asked."""
        split = "test" if self.config.test_file else self.config.split
        if split not in self.splits:
            raise UserError(f"数据里没有 {split} 部分（有 {'、'.join(self.splits)}）；用 --split 或 --test_file 指定")
        rows = corrected_rows(self.config, split, self.splits[split])
        if self.config.max_samples is None:
            return rows
        return stratified_sample(rows, self.config.max_samples, self.config.seed)

    @cached_property
    def validation(self) -> Rows:
        """All validation rows, never sampled: of `--dataset`, or else of the data that the adapter was trained on."""
        splits = training_splits(self.config.model_path) if self.config.test_file else self.splits
        return corrected_rows(self.config, "validation", splits["validation"])

    @cached_property
    def cache(self) -> PredictionCache:
        """The model's logits by text; the model is loaded only if a text is missing."""
        others = Path(self.config.output_dir).glob(f"*/{KEY_FILE}") if self.has_own_folder else []
        return PredictionCache(
            self.output,
            self.fingerprint,
            self.load_predictor,
            fresh=self.config.fresh,
            elsewhere=sorted(path.parent for path in others),
        )

    def predictions(self, rows: Rows) -> Predictions:
        """The cached predictions for `rows`; KeyError for a text that no step has asked for."""
        return Predictions(rows.texts, self.cache.logits(rows.texts), rows.labels)

    def provenance(self) -> dict:
        """The keys of a result file that say where its figures come from: environment, model and data."""
        return {
            "environment": environment(),
            "model_path": self.model_description(),
            "model_fingerprint": self.fingerprint,
            "data": {
                "source": self.data_source(),
                "split": self.config.split,
                "fingerprint": self.rows.fingerprint(),
                "n": len(self.rows),
            },
        }

    def settings(self) -> dict:
        """The further keys of run.json: the flags that are not at their defaults, the data set, and the training."""
        flags = dataclasses.asdict(self.config)
        unsaid = ["model_path", "fresh", "steps"] + (["output_dir"] if self.has_own_folder else [])
        for name in unsaid:
            flags.pop(name, None)
        return {
            "labels": self.sentiment.labels,
            "ordinal": self.ordinal,
            "flags": {name: value for name, value in flags.items() if value != getattr(type(self.config), name)},
            "split_fingerprints": self.split_fingerprints(),
            "training": self.training_info().get("config", {}),
        }

    def split_fingerprints(self) -> dict[str, str]:
        """Those of the evaluated data set, whole; a file of one's own comes beside the training data."""
        trained_on = self.training_info().get("data_fingerprint", {}) if self.config.test_file else {}
        return trained_on | fingerprints(self.splits)

    def data_source(self) -> str:
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

        return SentimentPredictor(self.config.base_model_name, self.config.model_path, dtype=self.config.dtype)

    @cached_property
    def fingerprint(self) -> str:
        """Hex digits that change with anything that changes the model's logits."""
        return model_fingerprint(self.config.model_path, self.config.base_model_name) + self._asked_precision()

    def _asked_precision(self) -> str:
        """Behind a fingerprint: what was predicted in another precision is not used."""
        return "" if self.config.dtype == AUTO else f"-{self.config.dtype}"

    def seen(self, texts: list[str]) -> np.ndarray:
        """Mark the texts that the model was trained on: (N,) bool."""
        return seen_mask(self.config.model_path, texts)

    def model_description(self) -> str:
        """The model as the result files name it."""
        return self.config.model_path

    def short_name(self) -> str:
        """The model in the name of a folder."""
        return adapter_name(self.config.model_path)

    def training_info(self) -> dict:
        """The adapter's run_info.json; nothing where it has none."""
        path = Path(self.config.model_path) / RUN_INFO
        return read_object(path) if path.is_file() else {}


class ZeroShotEvaluation(Evaluation):
    """The evaluation of a base without adapter, which has seen no training rows."""

    config: MetricsConfig

    def load_sentiment(self) -> SentimentConfig:
        from prediction.zero_shot import zero_shot_config

        config = self.config
        labels = given_labels(config.labels) if config.labels else LABEL_NAMES
        return zero_shot_config(
            config.model_name,
            labels=labels,
            sentiments=named_sentiments(config.negative_label, config.positive_label, labels),
            label_words=config.label_words,
            prompt_template=config.prompt_template,
            max_length=config.max_length,
            quantize=config.load_in_4bit,
        )

    def load_predictor(self):
        from modeling.devices import best_device
        from prediction.zero_shot import ZeroShotPredictor

        device = best_device().asked_for(self.config.dtype)
        return ZeroShotPredictor(
            self.sentiment, contextual_calibration=self.config.contextual_calibration, device=device
        )

    @cached_property
    def fingerprint(self) -> str:
        calibration = self.config.contextual_calibration
        return settings_fingerprint(self.sentiment, contextual_calibration=calibration) + self._asked_precision()

    def seen(self, texts: list[str]) -> np.ndarray:
        return np.zeros(len(texts), dtype=bool)

    def model_description(self) -> str:
        calibrated = "，contextual calibration" if self.config.contextual_calibration else ""
        return f"{self.config.model_name}（零样本{calibrated}）"

    def short_name(self) -> str:
        return Path(self.config.model_name).name

    def training_info(self) -> dict:
        return {"config": {"model_name": self.config.model_name}}


def corrected_rows(config: EvaluationConfig, split: str, rows: Rows) -> Rows:
    """The rows as `--apply_corrections` wants them; the table may be about other splits too."""
    if config.apply_corrections is None:
        return rows
    splits, note = corrected({split: rows}, Path(config.apply_corrections), whole=False)
    print(note, flush=True)
    return splits[split]


def evaluation_splits(config: EvaluationConfig, labels: list[str]) -> dict[str, Rows]:
    """The rows of `--test_file` as the test split, or all splits of `--dataset` or of the adapter's training data.

    Label ids are positions in `labels`.
    """
    if config.test_file:
        mapping = None if config.label_map is None else read_label_map(Path(config.label_map))
        columns = (config.text_column, config.label_column)
        return {"test": read_labelled_file(Path(config.test_file), *columns, labels, config.encoding, mapping)}
    if config.dataset:
        return load_splits(
            DataConfig(
                dataset=config.dataset,
                labels=labels,
                text_column=config.text_column,
                label_column=config.label_column,
                hub=config.hub,
                label_map=config.label_map,
            )
        )
    return training_splits(config.model_path)
