"""A merged model as an ordinary transformers folder, which answers elsewhere as `SentimentPredictor` does here.

    classifier = as_classifier(predictor)
    write_settings(folder, classifier, source)
    write_weights(folder, classifier)

All that is ours goes where any client finds it: the adapter into the weights, the calibration into the head, the
cleaning, the prompt and the reading of special tokens into the tokenizer, the length into its `model_max_length`.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import torch
from torch import nn

from configs.prompt_template import template_parts
from configs.training_config import LABEL_SCORING
from data.seen_texts import FILE_NAME as SEEN_TEXTS
from modeling.adapter_folder import RUN_INFO, SentimentConfig
from modeling.base_model import load_tokenizer
from modeling.label_scoring import label_word_ids
from prediction.predictor import SentimentPredictor
from runtime.atomic_files import write_json
from runtime.errors import UserError

SHARD_SIZE = "5GB"


def require_exportable(predictor: SentimentPredictor) -> None:
    """A `UserError` for a model that is no ordinary classifier."""
    config = predictor.config
    if any("lora" in name for name, _ in predictor.model.named_parameters()):
        raise UserError("这个适配器改了词向量，而基座的 lm_head 与词向量是同一个矩阵：并进去答案会变，不能导出")
    if config.head != LABEL_SCORING:
        return
    words = zip(config.label_words or [], label_word_ids(predictor.tokenizer, config.label_words or []), strict=True)
    if long := [f"{word}（{len(ids)} 个）" for word, ids in words if len(ids) != 1]:
        raise UserError(
            f"标签词不是一个 token：{'、'.join(long)}。只有一个 token 的标签词能变成普通的分类头；"
            "换成一个 token 的词重新训练（--label_words），或训练分类头（--head classifier）"
        )


def as_classifier(predictor: SentimentPredictor):
    """Qwen2ForSequenceClassification (B, T) -> (B, C), float32, on the CPU; its softmax is calibrated.

    Takes the predictor's weights over: the predictor is not to be used afterwards. Softmax over the label words alone
    does not see the vocabulary's normaliser, so that rows of `lm_head` are as good as log-probabilities.
    """
    from transformers import AutoModelForSequenceClassification

    sentiment, model = predictor.config, predictor.model.to("cpu")
    if sentiment.head == LABEL_SCORING:
        words = [ids[0] for ids in label_word_ids(predictor.tokenizer, sentiment.label_words)]
        head = model.get_output_embeddings().weight[words]
    else:
        head = model.score.weight
    config = model.config
    config.num_labels = len(sentiment.labels)
    config.id2label = dict(enumerate(sentiment.labels))
    config.label2id = {label: index for index, label in enumerate(sentiment.labels)}
    config.pad_token_id = predictor.tokenizer.pad_token_id
    config.problem_type = "single_label_classification"
    config.architectures = ["Qwen2ForSequenceClassification"]
    config.dtype = torch.float32
    # Thresholds have no place of their own anywhere: whoever wants them finds them, and what else we know, here.
    config.sentiment = {
        "thresholds": sentiment.thresholds,
        "max_length": sentiment.max_length,
        "head": sentiment.head,
        "prompt_template": sentiment.prompt_template,
        "label_words": sentiment.label_words,
        "temperature": sentiment.temperature,  # already in the head
    }
    with torch.device("meta"):
        classifier = AutoModelForSequenceClassification.from_config(config)
    classifier.model = model.get_decoder()
    classifier.score = nn.Linear(head.shape[1], head.shape[0], bias=False)
    classifier.score.weight = nn.Parameter(head.detach().float() / sentiment.temperature, requires_grad=False)
    return classifier.eval()


def write_weights(folder: Path, classifier) -> None:
    """model.safetensors, in several files where it is large."""
    classifier.save_pretrained(folder, max_shard_size=SHARD_SIZE)


def write_settings(folder: Path, classifier, source: Path) -> None:
    """All but the weights: config.json, the tokenizer, and from the adapter folder what an evaluation reads."""
    sentiment = SentimentConfig.load(source)
    classifier.config.save_pretrained(folder)
    write_tokenizer(folder, load_tokenizer(str(source)), sentiment)
    dataclasses.replace(sentiment, temperature=1.0, quantization=None).save(folder)
    for name in (RUN_INFO, SEEN_TEXTS):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def write_tokenizer(folder: Path, tokenizer, sentiment: SentimentConfig) -> None:
    """A tokenizer that turns a review as it stands into just the tokens that `encode_texts` makes of the cleaned one.

    - The cleaning of `clean_text` is its normalizer.
    - The prompt is its post-processor: "special tokens" before and after the text, which truncation leaves alone.
    - `split_special_tokens`: a review that contains "<|endoftext|>" is read as those characters.

    For a model of type qwen2 transformers 5 takes its own Qwen2Tokenizer whatever class the folder names, and with it
    another normalizer, except where `auto_map` names a class of the folder's own (`tokenization_auto.py`, the list
    MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS). It is not trusted, so that what is loaded is the plain reader of
    tokenizer.json; for those who trust it, the same lies in the folder.
    """
    from tokenizers import Regex, Tokenizer, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex("[\u200b\u2060\ufeff\u00ad]"), ""),
            normalizers.NFC(),
            normalizers.Replace(Regex("[\x00-\x1f\x7f-\x9f\\s]+"), " "),
            normalizers.Strip(),
        ]
    )
    longest = sentiment.max_length
    if sentiment.prompt_template is not None:
        pieces, special = ["$A"], []
        for place, part in zip((0, 2), template_parts(sentiment.prompt_template), strict=True):
            ids = tokenizer(part, add_special_tokens=False)["input_ids"]
            if not ids:
                continue
            name = f"[prompt {place}]"
            special.append({"id": name, "ids": ids, "tokens": [backend.id_to_token(i) for i in ids]})
            pieces.insert(place, name)
            longest += len(ids)
        backend.post_processor = processors.TemplateProcessing(
            single=pieces, pair=[*pieces, "$B:1"], special_tokens=special
        )
    backend.enable_truncation(longest)  # for clients that read tokenizer.json alone
    backend.no_padding()
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=tokenizer.pad_token,
        eos_token=tokenizer.eos_token,
        model_max_length=longest,
        split_special_tokens=True,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    own_class = {"AutoTokenizer": [None, "review_tokenizer.ReviewTokenizer"]}
    write_json(path, settings | {"tokenizer_class": "PreTrainedTokenizerFast", "auto_map": own_class})
    shutil.copyfile(Path(__file__).parent / "examples" / "review_tokenizer.py", folder / "review_tokenizer.py")
