"""What the papers' tokenizers differ in besides the vocabulary: special pieces, layout, padding.

Ids never stand here: they are read from the vocabulary (SciBERT, ERNIE and DeBERTa each number
theirs differently).
"""

from dataclasses import dataclass

BERT_PAIR = ("{cls}:0 $A:0 {sep}:0", "{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1")
PLAIN_PAIR = ("{cls}:0 $A:0 {sep}:0", "{cls}:0 $A:0 {sep}:0 $B:0 {sep}:0")
ROBERTA_PAIR = ("{cls}:0 $A:0 {sep}:0", "{cls}:0 $A:0 {sep}:0 {sep}:0 $B:0 {sep}:0")
XLNET_PAIR = ("$A:0 {sep}:0 {cls}:2", "$A:0 {sep}:0 $B:1 {sep}:1 {cls}:2")

NAMES = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")  # special tokens by role
REQUIRED = ("pad", "unk", "cls", "sep")


@dataclass(frozen=True)
class Family:
    """One way of putting special tokens around text.

    `tokens` maps a role of `NAMES` to its piece; `layout` is the single and the pair template
    (piece or slot, then token type); `mask_eats_space` says that the mask takes the blank on its
    left with it, as the published vocabularies have it ("the <mask> of" must not leave a lone
    blank); `extra` are further special pieces; `class_name` is the class that `transformers` knows
    this tokenizer by.
    """

    name: str
    class_name: str
    tokens: dict[str, str]
    layout: tuple[str, str] = BERT_PAIR
    type_ids: bool = True
    pad_type: int = 0
    padding_side: str = "right"
    mask_eats_space: bool = False
    extra: tuple[str, ...] = ()


_BRACKETS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_BRACKETS_BOS = {**_BRACKETS, "bos": "[CLS]", "eos": "[SEP]"}
_ANGLES = {
    "pad": "<pad>",
    "unk": "<unk>",
    "cls": "<s>",
    "sep": "</s>",
    "mask": "<mask>",
    "bos": "<s>",
    "eos": "</s>",
}

FAMILIES = {
    family.name: family
    for family in (
        Family("bert", "BertTokenizer", _BRACKETS),
        Family(
            "modernbert",
            "PreTrainedTokenizerFast",
            _BRACKETS,
            layout=PLAIN_PAIR,
            type_ids=False,
            mask_eats_space=True,
        ),
        Family(
            "roberta",
            "RobertaTokenizer",
            _ANGLES,
            layout=ROBERTA_PAIR,
            type_ids=False,
            mask_eats_space=True,
        ),
        Family(
            "xlm-roberta",
            "XLMRobertaTokenizer",
            _ANGLES,
            layout=ROBERTA_PAIR,
            type_ids=False,
            mask_eats_space=True,
        ),
        Family(
            "albert",
            "AlbertTokenizer",
            {**_BRACKETS_BOS, "pad": "<pad>", "unk": "<unk>"},
            mask_eats_space=True,
        ),
        Family(
            "xlnet",
            "XLNetTokenizer",
            {**_ANGLES, "cls": "<cls>", "sep": "<sep>"},
            layout=XLNET_PAIR,
            pad_type=3,
            padding_side="left",
            mask_eats_space=True,
            extra=("<eod>", "<eop>"),
        ),
        Family("deberta", "DebertaTokenizer", _BRACKETS_BOS, mask_eats_space=True),
        Family("deberta-v2", "DebertaV2Tokenizer", _BRACKETS_BOS),
    )
}

# `model_type` of config.json -> does the model take token types. DistilBERT reads BERT's
# vocabulary, without them.
MODEL_TYPE_IDS = {
    "bert": True,
    "electra": True,
    "mobilebert": True,
    "ernie": True,
    "albert": True,
    "xlnet": True,
    "deberta": True,
    "deberta-v2": True,
    "distilbert": False,
    "roberta": False,
    "xlm-roberta": False,
    "modernbert": False,
}
