"""What a language model says about a review without any training for it: label scoring.

After the prompt `评论：{text}\\n情感倾向：`, how probable does the model find each label word?

    model, tokenizer = load_causal_base("Qwen/Qwen2.5-1.5B")
    words = ["负面", "正面"]
    scores = score_label_words(model, tokenizer, ["很好"], template=TEMPLATE, label_words=words, max_length=256)
    scores.argmax(axis=1)  # [1]

A softmax over a row of scores gives the probabilities of the labels, given that one of the words follows.
"""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from data.preprocessing import clean_text, encode_texts
from modeling.prediction import BATCH_TOKENS, predict_logits

TEMPLATE = "评论：{text}\n情感倾向："
# Rows of the vocabulary projection that are multiplied at once, in float32: 100 MB for Qwen2.5-1.5B's 151,936.
VOCABULARY_CHUNK = 16_384


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

    The probability of a word of several tokens is the product over its tokens, each given those before: how
    often the model would write just this word next. It is not divided by the number of tokens, since that
    would no longer be a probability. So a word that begins another is always the more probable one.

    At most `max_length` tokens of a text are read; the prompt is never cut and comes on top, as does the word.
    A score does not depend on the other texts. ValueError for a template without just one `{text}`, for fewer
    than two label words, and for two of the same tokens.
    """
    scorer = LabelWordScorer(model, label_word_ids(tokenizer, label_words))
    cleaned = [clean_text(text) for text in texts]
    distinct = {text: i for i, text in enumerate(dict.fromkeys(cleaned))}
    prompts = prompt_ids(tokenizer, list(distinct), template, max_length)
    budget = BATCH_TOKENS[model.device.type] // scorer.branches
    scores = predict_logits(scorer, prompts, tokenizer.pad_token_id, max_tokens=budget, progress=progress)
    return scores[[distinct[text] for text in cleaned]]


def prompt_ids(tokenizer, texts: list[str], template: str, max_length: int) -> list[list[int]]:
    """Token ids of each text in the template, with at most `max_length` tokens of the text.

    What stands before the text, the text and what stands after are turned into tokens apart, so that cutting
    the text leaves the prompt whole and every prompt starts with the same tokens. A tokenizer that sees all at
    once may join a full stop and the line break after it.
    """
    parts = template.split("{text}")
    if len(parts) != 2:
        raise ValueError(f"提示词模板里应有且只有一个 {{text}}，得到 {template!r}")
    before, after = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in parts)
    reviews = encode_texts(tokenizer, texts, max_length) if texts else []
    return [before + review + after for review in reviews]


def label_word_ids(tokenizer, label_words: Sequence[str]) -> list[list[int]]:
    """Token ids of each label word; at least two words, none empty, no two alike."""
    words = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in label_words]
    if len(words) < 2 or not all(words) or len(set(map(tuple, words))) < len(words):
        raise ValueError(f"标签词应至少两个、都不为空且互不相同，得到 {list(label_words)}")
    return words


class LabelWordScorer(nn.Module):
    """A language model as a classifier: `logits` (B, C) are the log-probabilities of C words after B prompts.

    For 正 面 and 负 面 the model must answer in three contexts: after the prompt, after 正 and after 负. The
    first is read off either of the two sequences prompt+正 and prompt+负, because attention looks back only.
    Words of one token need a single sequence, the prompt itself.
    """

    def __init__(self, model, words: Sequence[Sequence[int]]):
        super().__init__()
        self.model = model
        self.config = SimpleNamespace(num_labels=len(words))
        contexts = list(dict.fromkeys(tuple(word[:i]) for word in words for i in range(len(word))))
        tails = [tail for tail in contexts if not any(_begins(tail, other) for other in contexts)]
        length = max(map(len, tails))
        host = {
            "tails": [[*tail, *[0] * (length - len(tail))] for tail in tails],  # (S, L); what fills up is never read
            "tail_of_context": [next(i for i, t in enumerate(tails) if t[: len(c)] == c) for c in contexts],  # (N,)
            "offset_of_context": [len(context) for context in contexts],  # (N,)
            "context_of_token": [contexts.index(tuple(word[:i])) for word in words for i in range(len(word))],  # (K,)
            "word_of_token": [index for index, word in enumerate(words) for _ in word],  # (K,)
            "tokens": [token for word in words for token in word],  # (K,)
        }
        for name, values in host.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.long, device=model.device), persistent=False)
        self.train(model.training)  # a new module is in training mode, and whoever restores that would restore it here

    @property
    def branches(self) -> int:
        """Sequences that the model reads for each prompt."""
        return len(self.tails)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        """`input_ids` (B, T), padded on the right as `attention_mask` says."""
        hidden = self._hidden_in_contexts(input_ids, attention_mask.sum(dim=1))  # (B, N, D)
        log_probs = token_log_probs(
            self.model.get_output_embeddings().weight, hidden, self.context_of_token, self.tokens
        )  # (B, K)
        scores = log_probs.new_zeros(len(input_ids), self.config.num_labels)
        return SimpleNamespace(logits=scores.index_add(1, self.word_of_token, log_probs))  # (B, C)

    def _hidden_in_contexts(self, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(B, N, D). No attention mask: padding stands behind everything that is read, and no token looks ahead."""
        (batch, length), (branches, tail) = input_ids.shape, self.tails.shape
        sequences = nn.functional.pad(input_ids, (0, tail)).repeat_interleave(branches, dim=0)  # (B S, T + L)
        ends = lengths.repeat_interleave(branches)[:, None] + torch.arange(tail, device=lengths.device)  # (B S, L)
        sequences = sequences.scatter(1, ends, self.tails.repeat(batch, 1))
        hidden = self.model.get_decoder()(input_ids=sequences, use_cache=False).last_hidden_state
        hidden = hidden.view(batch, branches, length + tail, -1)
        rows = torch.arange(batch, device=lengths.device)[:, None]
        return hidden[rows, self.tail_of_context, lengths[:, None] - 1 + self.offset_of_context]


def token_log_probs(
    weight: torch.Tensor, hidden: torch.Tensor, contexts: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """Log-probability of `tokens[k]` in context `contexts[k]`, (B, K) float32; `weight` (V, D), `hidden` (B, N, D).

    In float32 whatever the weights' precision: bf16 logits near 20 differ by steps of 1/8. The vocabulary is
    taken piece by piece, so that neither B x N x V logits nor a float32 copy of `weight` is ever in memory.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        hidden = hidden.float()
        logits = (hidden[:, contexts] * weight[tokens].float()).sum(dim=-1)  # (B, K)
        pieces = [(hidden @ piece.float().T).logsumexp(dim=-1) for piece in weight.split(VOCABULARY_CHUNK)]
        return logits - torch.stack(pieces).logsumexp(dim=0)[:, contexts]


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
    rows = encode_texts(tokenizer, [clean_text(text) for text in texts], max_length) if texts else []
    return predict_logits(LastHiddenState(model), rows, tokenizer.pad_token_id, progress=progress)


def _begins(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    return len(first) < len(second) and second[: len(first)] == first
