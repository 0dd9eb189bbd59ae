"""SpanBERT-base as the paper pre-trains it (arXiv:1907.10529, section 4): spans of whole words, told from inside and from beside.

    bertvariants train experiments/spanbert_base.py --out runs/spanbert_base \\
        --task.data 'text:books/*.txt' 'text:wiki/*.txt' --model.tokenizer vocab/

2.4M steps of 256 single-document segments of 512 tokens, Adam at 1e-4 with 10,000 steps of warm-up; decay 0.01 and on
every parameter, as in fairseq (the paper says 0.1).

    bertvariants train experiments/spanbert_base.py --tiny --out runs/spanbert_tiny \\
        --task.data 'text:wiki/*.txt.gz' --task.evaluation text:wikitext-2/valid.txt
"""

from bertvariants_jax.recipe import Compute, Optim, Recipe, Settings, Spans, model, replace


def recipe(tiny: bool = False, tokenizer: str = "") -> Recipe:
    """tiny: 2 layers of width 128 on segments of 64, minutes on a laptop. tokenizer: folder of a vocabulary."""
    if tiny:
        small = {"vocab_size": 4096, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
                 "intermediate_size": 512, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return Recipe(
            task=Spans(max_length=64),
            model=model("spanbert-base-cased", tokenizer, **small),
            optim=Optim("adamw", rate=3e-3, schedule="shifted", warmup=0.1, b2=0.98),
            settings=Settings(steps=2400, batch_size=64, log_every=50, eval_every=600, save_every=1200),
            compute=Compute(unroll=0),
        )
    return Recipe(
        task=Spans(max_length=512),
        model=replace(model("spanbert-base-cased", tokenizer), lowercase=False),
        optim=Optim("adamw", rate=1e-4, schedule="shifted", warmup=10_000, eps=1e-8, weight_decay=0.01, decay="all"),
        settings=Settings(steps=2_400_000, batch_size=256, log_every=100, eval_every=20_000, save_every=2_000, keep_last=3),
        compute=Compute(dtype="bfloat16"),
        workers=4,
    )
