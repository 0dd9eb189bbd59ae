"""ALBERT-base as the paper pre-trains it (arXiv:1909.11942): masked LM over n-grams of whole words, and sentence order.

    bertvariants train experiments/albert_base.py --out runs/albert_base \\
        --task.data 'text:books/*.txt' 'text:wiki/*.txt' --model.tokenizer vocab/

125,000 steps of 4,096 pairs of 512 tokens with LAMB at 1.76e-3 after 3,125 steps of warm-up; pairs and masks are written
forty times and kept. --size takes another published name: those of version 2 drop nothing out (and go on for 3M or 10M
steps: --steps), those of version 1 a tenth. The README of the original predicts 20 places at most
(--task.max-predictions 20); 0.15 of 512 tokens, the paper's rate, is 77.
Cost by count: 1.2 PFLOP a step, as wide and deep as BERT-base, 150 EFLOP in all. Not run at full length here.

A few minutes on two CPU cores:

    bertvariants train experiments/albert_base.py --tiny --out runs/albert_tiny \\
        --task.data 'text:wiki/*.txt.gz' --task.evaluation text:wikitext-2/valid.txt

Measured on Wikipedia's featured articles, evaluated on WikiText-2's validation text: masked accuracy 0.030 at step 50 (loss
7.64), 0.148 at 1400 (5.80) in training; 0.183 (5.51) in evaluation, where the commonest piece makes 0.118 and its
frequencies a loss of 6.07. Sentence order 0.629 (majority 0.595): more of it takes a longer run.
"""

from bertvariants_jax.recipe import Compute, Optim, Pretrain, Recipe, Settings, model


def recipe(size: str = "albert-base-v2", tiny: bool = False, tokenizer: str = "") -> Recipe:
    """size: a published name. tiny: one layer of 128, turned twice, for a few minutes. tokenizer: folder of a vocabulary;
    "" trains one on the text.
    """
    if tiny:
        return Recipe(
            task=Pretrain(max_length=64, pairs="sop", masking="ngrams", dupe_factor=2),
            model=model(size, tokenizer, num_hidden_layers=2, hidden_size=128, num_attention_heads=4,
                        intermediate_size=512, embedding_size=128, vocab_size=4096, initializer_range=0.06),
            optim=Optim("lamb", rate=1e-2, schedule="bert", warmup=0.05, b2=0.98),
            settings=Settings(steps=1500, batch_size=64, log_every=50, eval_every=1000, save_every=1000),
            compute=Compute(unroll=0),
        )
    return Recipe(
        task=Pretrain(max_length=512, pairs="sop", masking="ngrams", max_predictions=77, masks="static", dupe_factor=40),
        model=model(size, tokenizer),
        optim=Optim("lamb", rate=1.76e-3, schedule="bert", warmup=3_125, weight_decay=0.01, clip=1.0),
        settings=Settings(steps=125_000, batch_size=4096, log_every=100, eval_every=5_000, save_every=1_000, keep_last=3),
        compute=Compute(dtype="bfloat16"),
        workers=8,
    )
