"""The shared real vocabularies, and what the folders they come from are."""

FAMILY = {  # folder in shared/data/tokenizers -> (family, config.json's model_type)
    "bert-base-uncased": ("bert", "bert"),
    "bert-base-cased": ("bert", "bert"),
    "bert-base-chinese": ("bert", "bert"),
    "bert-base-multilingual-cased": ("bert", "distilbert"),
    "scibert-uncased": ("bert", "bert"),
    "ernie-1.0-zh": ("bert", "ernie"),
    "ernie-3.0-zh": ("bert", "ernie"),
    "roberta-base": ("roberta", "roberta"),
    "modernbert": ("modernbert", "modernbert"),
    "albert-base": ("albert", "albert"),
    "xlnet-base-cased": ("xlnet", "xlnet"),
    "deberta-v3": ("deberta-v2", "deberta-v2"),
    "xlm-roberta-base": ("xlm-roberta", "xlm-roberta"),
}
