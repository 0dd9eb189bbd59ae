"""The registry: variant name -> record. One line a paper; the rest of the house learns no other name."""

from bertvariants_jax.models.albert import ALBERT
from bertvariants_jax.models.bert import BERT
from bertvariants_jax.models.deberta import DEBERTA
from bertvariants_jax.models.deberta_v2 import DEBERTA_V2
from bertvariants_jax.models.deberta_v3 import DEBERTA_V3
from bertvariants_jax.models.distilbert import DISTILBERT
from bertvariants_jax.models.electra import ELECTRA
from bertvariants_jax.models.ernie import ERNIE
from bertvariants_jax.models.modernbert import MODERNBERT
from bertvariants_jax.models.roberta import ROBERTA, XLM_ROBERTA_XL
from bertvariants_jax.models.spanbert import SPANBERT
from bertvariants_jax.models.variant import Variant
from bertvariants_jax.models.xlnet import XLNET

VARIANTS: dict[str, Variant] = {variant.name: variant for variant in (
    BERT, ROBERTA, XLM_ROBERTA_XL, ALBERT, DISTILBERT, ELECTRA, XLNET, DEBERTA,
    DEBERTA_V3, DEBERTA_V2,                # one model_type: v2 is what has a convolution
    ERNIE, SPANBERT, MODERNBERT,
)}


def find_size(name: str):
    """(variant, config) of a published size, or of a variant by its own or its `model_type`'s name (its first size).

    Raises ValueError naming the nearest known names.
    """
    import difflib

    for variant in VARIANTS.values():
        if name in variant.sizes:
            return variant, variant.sizes[name]
    if name in VARIANTS:
        return VARIANTS[name], next(iter(VARIANTS[name].sizes.values()))
    for variant in VARIANTS.values():
        if name in variant.aliases:
            return variant, next(cfg for cfg in variant.sizes.values() if cfg.model_type == name)
    known = [*VARIANTS, *(size for variant in VARIANTS.values() for size in variant.sizes)]
    near = difflib.get_close_matches(name, known, 3) or list(VARIANTS)
    raise ValueError(f"no variant or size is called {name!r}; did you mean {', '.join(near)}?")
