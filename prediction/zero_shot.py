"""Zero-shot classification, a language model that was not trained for it: label scoring of the un-tuned base.

    predictor = ZeroShotPredictor(zero_shot_config("Qwen/Qwen2.5-1.5B"), contextual_calibration=True)
    predictor.predict("很好")["label"]  # 正面

It answers as a `SentimentPredictor` does, so that everything which evaluates one evaluates this too.
"""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from configs.prompt_template import default_template
from configs.training_config import LABEL_SCORING
from data.dataset import LABEL_NAMES
from data.polarity import polarity_of, sentiment_words
from data.preprocessing import clean_text, encode_texts
from modeling.adapter_folder import SentimentConfig
from modeling.base_model import find_model, load_label_scorer
from modeling.batching import predict_logits
from modeling.devices import Device
from modeling.label_scoring import as_label_scorer, label_word_ids
from prediction.predictor import SentimentPredictor

# Reviews that say nothing: what a model answers to them is its own leaning. As in Zhao et al. 2021, with 无 for "".
CONTENT_FREE = ("N/A", "[MASK]", "无")


class ZeroShotPredictor(SentimentPredictor):
    """A base (hub name or folder) as a predictor, with no adapter and no training."""

    def __init__(
        self, sentiment: SentimentConfig, *, contextual_calibration: bool = False, device: Device | None = None
    ):
        """`sentiment` as an adapter of the head label_scoring would have it; see `zero_shot_config`.

        With `contextual_calibration` the scores have the label prior of `label_prior` subtracted.
        """
        self.config, self.labels, self.threshold, self.shared = sentiment, sentiment.labels, None, False
        folder, _ = find_model(sentiment.base_model, sentiment.base_revision)
        words = sentiment.label_words or self.labels
        self.model, self.tokenizer = load_label_scorer(
            folder, self.labels, words, max_length=sentiment.max_length,
            quantize=sentiment.quantization == "nf4", device=device,
        )  # fmt: skip
        if contextual_calibration:
            template = sentiment.prompt_template or default_template(self.labels)
            prior = label_prior(self.model, self.tokenizer, template, sentiment.max_length)
            self.model.label_words.prior.copy_(prior)


def zero_shot_config(
    base_model: str,
    *,
    labels: Sequence[str] = tuple(LABEL_NAMES),
    label_words: Sequence[str] | None = None,
    prompt_template: str | None = None,
    max_length: int = 256,
    quantize: bool = False,
    sentiments: Sequence[str] | None = None,
) -> SentimentConfig:
    """Settings of a zero-shot predictor; `label_words` stand for `labels`, in their order.

    Where there are none, 负面 and 正面 stand for two sentiments, whatever these are called, and other labels for
    themselves. `sentiments` are the negative and the positive label, where their words do not tell.
    """
    words = sentiment_words(labels, polarity_of(labels, sentiments)) or labels
    return SentimentConfig(
        base_model=base_model,
        base_revision=None,
        labels=list(labels),
        max_length=max_length,
        quantization="nf4" if quantize else None,
        head=LABEL_SCORING,
        prompt_template=prompt_template or default_template(words),
        label_words=list(label_words or words),
        sentiments=None if sentiments is None else list(sentiments),
    )


def label_prior(model, tokenizer, template: str, max_length: int) -> torch.Tensor:
    """(C,) float32 log-probabilities of the labels after reviews without content, the mean over `CONTENT_FREE`.

    Subtracting it from a score divides the label's probability by how probable the model finds it anyhow. Source:
    Zhao et al. 2021, "Calibrate Before Use", https://arxiv.org/abs/2102.09690 (W = diag(p_cf)^-1, b = 0).
    """
    rows = encode_texts(tokenizer, list(CONTENT_FREE), max_length, template)
    scores = torch.from_numpy(predict_logits(model, rows, tokenizer.pad_token_id))  # (3, C)
    return scores.softmax(dim=1).mean(dim=0).log()


def score_label_words(
    model,
    tokenizer,
    texts: Sequence[str],
    *,
    template: str,
    label_words: Sequence[str],
    max_length: int,
    progress: str | None = None,
) -> np.ndarray:
    """Log-probability in nats of each label word right after the prompt with each text, (N, C) float32.

    The probability of a word of several tokens is the product over its tokens, each given those before. It is not
    divided by the number of tokens, since that would no longer be a probability; of two words with equal scores the
    first one wins, as with any argmax. At most `max_length` tokens of a text are read; the prompt is never cut and
    comes on top, as does the word. A score does not depend on the other texts. ValueError for a template without just
    one `{text}` and for words that `label_word_ids` refuses. `model` becomes a label scorer.
    """
    model = as_label_scorer(model, label_word_ids(tokenizer, label_words))
    cleaned = [clean_text(text) for text in texts]
    distinct = {text: i for i, text in enumerate(dict.fromkeys(cleaned))}
    rows = encode_texts(tokenizer, list(distinct), max_length, template)
    model.config.num_labels = len(label_words)
    scores = predict_logits(model, rows, tokenizer.pad_token_id, progress=progress)
    return scores[[distinct[text] for text in cleaned]]


class LastHiddenState(nn.Module):
    """`logits` (B, D): the last layer at each text's last token, which is what a classification head reads."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.config = SimpleNamespace(num_labels=model.config.hidden_size)
        self.train(model.training)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        hidden = self.model.get_decoder()(input_ids=input_ids, use_cache=False).last_hidden_state  # (B, T, D)
        rows = torch.arange(len(hidden), device=hidden.device)
        return SimpleNamespace(logits=hidden[rows, attention_mask.sum(dim=1) - 1])


def last_hidden_states(
    model, tokenizer, texts: Sequence[str], *, max_length: int, progress: str | None = None
) -> np.ndarray:
    """(N, D) float32 features of the texts, read as the classifier reads them: cleaned, without a prompt."""
    rows = encode_texts(tokenizer, [clean_text(text) for text in texts], max_length)
    return predict_logits(LastHiddenState(model), rows, tokenizer.pad_token_id, progress=progress)
