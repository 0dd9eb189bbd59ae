"""What the papers' tokenizers differ in besides the vocabulary: special pieces, layout, padding.

Ids never stand here: they are read from the vocabulary (SciBERT, ERNIE and DeBERTa each number
theirs differently).
"""

from __future__ import annotations

from dataclasses import dataclass

BERT_PAIR = ("{cls}:0 $A:0 {sep}:0", "{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1")
PLAIN_PAIR = ("{cls}:0 $A:0 {sep}:0", "{cls}:0 $A:0 {sep}:0 $B:0 {sep}:0")
ROBERTA_PAIR = ("{cls}:0 $A:0 {sep}:0", "{cls}:0 $A:0 {sep}:0 {sep}:0 $B:0 {sep}:0")
XLNET_PAIR = ("$A:0 {sep}:0 {cls}:2", "$A:0 {sep}:0 $B:1 {sep}:1 {cls}:2")

NAMES = ("pad", "unk", "cls", "sep", "mask", "bos", "eos")  # special tokens by role
REQUIRED = ("pad", "unk", "cls", "sep")

# Whose ids: those that `transformers` gives, or those of the papers' own code and models.
IDS = ("hf", "original")

# Classes that take tokenizer.json as it stands.
GENERIC = ("PreTrainedTokenizerFast", "PreTrainedTokenizer", "TokenizersBackend", "PythonBackend")


@dataclass(frozen=True)
class Family:
    """One way of cutting text and of putting special tokens around it.

    `kind` is that of its vocabulary; `classes` are the names (without "Fast") of the classes that
    make it in `transformers`; `tokenizer_ids` is whose ids it gives unless told (`IDS`); `tokens`
    maps a role of `NAMES` to its piece; `layout` is the single and the pair template (piece or
    slot, then token type); `mask_eats_space` says that the mask takes the blank on its
    left with it, as the published vocabularies have it ("the <mask> of" must not leave a lone
    blank); `extra` are further special pieces.
    """

    name: str
    kind: str  # wordpiece | bpe | unigram
    classes: tuple[str, ...]
    tokens: dict[str, str]
    tokenizer_ids: str = "hf"
    layout: tuple[str, str] = BERT_PAIR
    type_ids: bool = True
    pad_type: int = 0
    padding_side: str = "right"
    mask_eats_space: bool = False
    extra: tuple[str, ...] = ()

    @property
    def class_name(self) -> str:
        """The class to write down, so that `transformers` opens a folder."""
        return self.classes[0] if self.classes else GENERIC[0]


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
        Family(
            "bert",
            "wordpiece",
            (
                "BertTokenizer",
                "DistilBertTokenizer",
                "ElectraTokenizer",
                "MobileBertTokenizer",
                "ErnieTokenizer",
                "ConvBertTokenizer",
                "LayoutLMTokenizer",
                "SqueezeBertTokenizer",
                "LxmertTokenizer",
                "RetriBertTokenizer",
                "DPRContextEncoderTokenizer",
                "DPRQuestionEncoderTokenizer",
                "DPRReaderTokenizer",
            ),
            _BRACKETS,
        ),
        Family(
            "modernbert",
            "bpe",
            (),
            _BRACKETS,
            layout=PLAIN_PAIR,
            type_ids=False,
            mask_eats_space=True,
        ),
        Family(
            "roberta",
            "bpe",
            ("RobertaTokenizer", "LongformerTokenizer", "BartTokenizer", "LEDTokenizer"),
            _ANGLES,
            layout=ROBERTA_PAIR,
            type_ids=False,
            mask_eats_space=True,
        ),
        Family(
            "xlm-roberta",
            "unigram",
            ("XLMRobertaTokenizer",),
            _ANGLES,
            layout=ROBERTA_PAIR,
            type_ids=False,
            mask_eats_space=True,
        ),
        Family(
            "camembert",
            "unigram",
            ("CamembertTokenizer",),
            _ANGLES,
            layout=ROBERTA_PAIR,
            type_ids=False,
            mask_eats_space=True,
            extra=("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"),
        ),
        Family(
            "albert",
            "unigram",
            ("AlbertTokenizer",),
            {**_BRACKETS_BOS, "pad": "<pad>", "unk": "<unk>"},
            mask_eats_space=True,
        ),
        Family(
            "xlnet",
            "unigram",
            ("XLNetTokenizer",),
            {**_ANGLES, "cls": "<cls>", "sep": "<sep>"},
            layout=XLNET_PAIR,
            pad_type=3,
            padding_side="left",
            mask_eats_space=True,
            extra=("<eod>", "<eop>"),
        ),
        Family("deberta", "bpe", ("DebertaTokenizer",), _BRACKETS_BOS, mask_eats_space=True),
        Family(
            "deberta-v2",
            "unigram",
            ("DebertaV2Tokenizer",),
            _BRACKETS_BOS,
            tokenizer_ids="original",
        ),
    )
}

# `model_type` of config.json -> its tokenizer's family, and whether the model takes token types.
# DistilBERT reads BERT's vocabulary, without them.
MODEL_FAMILIES = {
    "bert": ("bert", True),
    "electra": ("bert", True),
    "mobilebert": ("bert", True),
    "ernie": ("bert", True),
    "albert": ("albert", True),
    "xlnet": ("xlnet", True),
    "deberta": ("deberta", True),
    "deberta-v2": ("deberta-v2", True),
    "distilbert": ("bert", False),
    "convbert": ("bert", True),
    "squeezebert": ("bert", True),
    "megatron-bert": ("bert", True),
    "nomic_bert": ("bert", True),
    "layoutlm": ("bert", True),
    "longformer": ("roberta", False),
    "roberta": ("roberta", False),
    "xlm-roberta": ("xlm-roberta", False),
    "xlm-roberta-xl": ("xlm-roberta", False),
    "camembert": ("camembert", False),
    "modernbert": ("modernbert", False),
}
