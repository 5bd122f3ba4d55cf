"""Words that speak for and against an answer: gradient times input, summed over the tokens of each word.

    explain(predictor, "酒店很干净，就是早餐差")
    # Explanation(words=[("酒店", 0.1), ("很", 0.2), ("干净", 1.9), ("，", 0.0), …], unread="")

A score is the change of the answer's log-odds, to first order, if the word's embeddings shrink to zero. It explains
the model, not the review; `benchmarks/explanation_faithfulness.py` measures how far the model follows it.
Source: Simonyan et al. 2014 (gradients), Shrikumar et al. 2017, section 3.1 (gradient times input).
"""

from dataclasses import dataclass
from typing import Any

from configs.prompt_template import template_parts
from data.preprocessing import LONGEST_TOKEN, clean_text, encode_texts
from data.word_segmentation import tokens as split_words


@dataclass
class Explanation:
    """The cleaned text's words in order with their scores (nats), and what lies beyond the model's length."""

    words: list[tuple[str, float]]
    unread: str


def can_explain(predictor: Any) -> bool:
    """True where the model is torch's, so that there are gradients; an exported one has none."""
    from torch import nn

    return isinstance(getattr(predictor, "model", None), nn.Module)


def explain(predictor: Any, text: str) -> Explanation:
    """Scores of the words of one text for the label that the model gives it; positive ones speak for the label."""
    config, tokenizer = predictor.config, predictor.tokenizer
    cleaned = clean_text(text)
    (row,) = encode_texts(tokenizer, [cleaned], config.max_length, config.prompt_template)
    before = 0
    if config.prompt_template is not None:
        before = len(tokenizer(template_parts(config.prompt_template)[0], add_special_tokens=False)["input_ids"])
    # The review's tokens as `encode_texts` makes them, with the characters that each stands for.
    spans = tokenizer(
        cleaned[: config.max_length * LONGEST_TOKEN],
        truncation=True,
        max_length=config.max_length,
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
    )["offset_mapping"]
    scores = token_scores(predictor, row)[before : before + len(spans)]

    # A token's score is shared out over its characters, and a word has those of its own.
    by_character = [0.0] * len(cleaned)
    read = 0
    for (start, end), score in zip(spans, scores, strict=True):
        for place in range(start, end):
            by_character[place] += score / (end - start)
        read = max(read, end)
    words = [(word, sum(by_character[start:end])) for word, start, end in split_words(cleaned[:read])]
    return Explanation(words, cleaned[read:])


def token_scores(predictor: Any, row: list[int]) -> list[float]:
    """Gradient of the answer's log-odds times the embedding, for each token of a row (prompt included)."""
    import torch

    from modeling.batching import pad
    from modeling.devices import Device

    model = predictor.model
    parameter = next(model.parameters())
    device = Device(parameter.device.type, parameter.dtype == torch.bfloat16)
    embedded: list[torch.Tensor] = []

    def keep(module, inputs, output):
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    hook = model.get_input_embeddings().register_forward_hook(keep)
    try:
        inputs = {name: value.to(parameter.device) for name, value in pad([row], 0, 1).items()}
        with torch.enable_grad(), device.autocast():
            logits = model(**inputs).logits[0].float() / predictor.config.temperature  # (C,)
        label = int(logits.argmax())
        others = torch.cat([logits[:label], logits[label + 1 :]])
        (gradient,) = torch.autograd.grad(logits[label] - others.logsumexp(dim=0), embedded[0])
    finally:
        hook.remove()
    return (gradient * embedded[0]).float().sum(dim=-1)[0, : len(row)].tolist()
