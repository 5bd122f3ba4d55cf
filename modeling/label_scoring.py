"""Label scoring: a language model classifies with what it already knows, and no new head.

After the prompt `评论：{text}\\n情感倾向：`, how probable does the model find each label word?

    model = as_label_scorer(causal_model, label_word_ids(tokenizer, ["负面", "正面"]))
    model(input_ids, attention_mask).logits  # (B, C): log-probability of each word after each prompt

Without training this is zero-shot classification; with LoRA it is `train.py --head label_scoring`. Both are the same
forward pass, so that a fresh adapter (B = 0) answers exactly as the base does.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import SequenceClassifierOutput

# Rows of the vocabulary projection that are multiplied at once, in float32: 100 MB for Qwen2.5-1.5B's 151,936.
VOCABULARY_CHUNK = 16_384


def label_word_ids(tokenizer, label_words: Sequence[str]) -> list[list[int]]:
    """Token ids of each label word; at least two words, none empty, no two of the same tokens, else ValueError.

    If the tokens of one word begin another's (好 and 好吃), each word gets the end-of-text token behind it. The model
    is then asked for whole answers, of which several can win; without it, 好 would always be the more probable.
    """
    words = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in label_words]
    if len(words) < 2 or not all(words) or len(set(map(tuple, words))) < len(words):
        raise ValueError(f"标签词应至少两个、都不为空且互不相同，得到 {list(label_words)}")
    if any(_begins(word, other) for word in words for other in words):
        words = [[*word, tokenizer.eos_token_id] for word in words]
    return words


def as_label_scorer(model, words: Sequence[Sequence[int]]):
    """`model` itself, a causal language model whose forward from now on answers with label scores.

    Its class gets `LabelScoring` mixed in, as torch's fully_shard does with its own: the names of the parameters stay,
    and an adapter trained on it fits the plain language model too. May be called again with other words.
    """
    if not isinstance(model, LabelScoring):
        cls = type(model)
        model.__class__ = type(f"{cls.__name__}WithLabelScores", (LabelScoring, cls), {})
    training = model.training
    model.label_words = LabelWords(words).to(model.device)
    model.extra_tokens = len(model.label_words.tails)
    return model.train(training)  # a new module is in training mode


class LabelWords(nn.Module):
    """Positions where the tokens of C label words are read off, as index tensors.

    For 正 面 and 负 面 the model must answer in three contexts: after the prompt, after 正 and after 负. The first is
    read off the prompt's last token; the others are tails that stand behind the prompt side by side, each seeing the
    prompt and itself alone. Words of one token need no tail.
    """

    def __init__(self, words: Sequence[Sequence[int]]):
        super().__init__()
        self.count = len(words)
        contexts = list(dict.fromkeys(tuple(word[:i]) for word in words for i in range(len(word))))
        tails = [tail for tail in contexts if tail and not any(_begins(tail, other) for other in contexts)]
        length = max(map(len, tails), default=0)
        tail_of = [next((i for i, tail in enumerate(tails) if tail[: len(c)] == c), 0) for c in contexts]
        # A context of k tokens ends at the prompt's last token (k = 0) or at token k - 1 of its tail.
        place_of = [tail_of[i] * length + len(c) - 1 if c else -1 for i, c in enumerate(contexts)]
        tables = {
            "tails": [token for tail in tails for token in [*tail, *[0] * (length - len(tail))]],  # (S L,)
            "tail_offset": [offset for _ in tails for offset in range(length)],  # (S L,)
            "tail_number": [number for number in range(len(tails)) for _ in range(length)],  # (S L,)
            "place_of_context": place_of,  # (N,) into the S L tail tokens; -1 is the prompt's last token
            "context_of_token": [contexts.index(tuple(word[:i])) for word in words for i in range(len(word))],  # (K,)
            "word_of_token": [index for index, word in enumerate(words) for _ in word],  # (K,)
            "tokens": [token for word in words for token in word],  # (K,)
        }
        for name, values in tables.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.long), persistent=False)
        self.register_buffer("prior", torch.zeros(len(words)), persistent=False)  # subtracted from the scores


class LabelScoring:
    """Mixed into a causal language model's class by `as_label_scorer`."""

    label_words: LabelWords
    # Of the language model:
    config: Any
    get_decoder: Callable[[], nn.Module]
    get_output_embeddings: Callable[[], nn.Module]

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **ignored) -> SequenceClassifierOutput:
        """`logits` (B, C) float32; `input_ids` (B, T) are prompts, padded on the right as `attention_mask` says.

        `ignored` is what PEFT passes on to a language model, all of it None.
        """
        words = self.label_words
        hidden = self._hidden_in_contexts(input_ids, attention_mask.sum(dim=1))  # (B, N, D)
        vocabulary = self.get_output_embeddings().weight  # (V, D)
        log_probs = token_log_probs(vocabulary, hidden, words.context_of_token, words.tokens)  # (B, K)
        scores = log_probs.new_zeros(len(input_ids), words.count).index_add(1, words.word_of_token, log_probs)
        return SequenceClassifierOutput(logits=scores - words.prior)

    def _hidden_in_contexts(self, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """(B, N, D): the last layer in each of the N contexts; `lengths` (B,) are tokens without padding."""
        words = self.label_words
        batch, length = input_ids.shape
        where = {}  # no mask needed: padding stands behind everything that is read, and no token looks ahead
        if len(words.tails):
            input_ids = torch.cat([input_ids, words.tails.expand(batch, -1)], dim=1)  # (B, T + S L)
            where["attention_mask"] = self._tail_mask(length, lengths)
            # A tail goes on counting where its prompt ends.
            in_prompt = torch.arange(length, device=lengths.device).expand(batch, -1)
            where["position_ids"] = torch.cat([in_prompt, lengths[:, None] + words.tail_offset], dim=1)
        decoded = self.get_decoder()(input_ids=input_ids, use_cache=False, **where).last_hidden_state
        after_prompt = (lengths - 1)[:, None]  # (B, 1)
        places = torch.where(words.place_of_context < 0, after_prompt, length + words.place_of_context)  # (B, N)
        return decoded[torch.arange(batch, device=lengths.device)[:, None], places]

    def _tail_mask(self, length: int, lengths: torch.Tensor) -> torch.Tensor:
        """(B, 1, T + S L, T + S L): which tokens (columns) a token (row) sees, as the attention in use wants it."""
        number = torch.cat([self.label_words.tail_number.new_full((length,), -1), self.label_words.tail_number])
        order = torch.arange(len(number), device=lengths.device)
        own = number[:, None] == number  # both in the prompt, or both in the same tail
        in_prompt = (number < 0) & (order < lengths[:, None])  # (B, T + S L)
        sees = (own | in_prompt[:, None]) & (order <= order[:, None])
        if self.config._attn_implementation == "eager":  # adds its mask to the scores
            return torch.zeros(sees.shape, device=sees.device).masked_fill(~sees, -torch.inf)[:, None]
        return sees[:, None]


def token_log_probs(
    weight: torch.Tensor, hidden: torch.Tensor, contexts: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """Log-probability of `tokens[k]` in context `contexts[k]`, (B, K) float32; `weight` (V, D), `hidden` (B, N, D).

    In float32 whatever the weights' precision: bf16 logits near 20 differ by steps of 1/8. The vocabulary is taken
    piece by piece, and in training each piece is computed again on the way back, so that neither B x N x V logits
    nor a float32 copy of `weight` is ever in memory.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        hidden = hidden.float()
        logits = (hidden[:, contexts] * weight[tokens].float()).sum(dim=-1)  # (B, K)
        options = {"use_reentrant": False, "preserve_rng_state": False}
        pieces = [checkpoint(_piece_logsumexp, hidden, p, **options) for p in weight.split(VOCABULARY_CHUNK)]  # (B, N)
        return logits - torch.stack(pieces).logsumexp(dim=0)[:, contexts]


def _piece_logsumexp(hidden: torch.Tensor, piece: torch.Tensor) -> torch.Tensor:
    return (hidden @ piece.float().T).logsumexp(dim=-1)


def _begins(first: Sequence[int], second: Sequence[int]) -> bool:
    return len(first) < len(second) and list(second[: len(first)]) == list(first)
