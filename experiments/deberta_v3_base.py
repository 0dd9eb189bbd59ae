"""DeBERTa-v3 as the paper pre-trains it (arXiv:2111.09543): replaced tokens, with embeddings shared but not their gradients.

    bertvariants train experiments/deberta_v3_base.py --out runs/deberta_v3_base \\
        --task.data 'text:books/*.txt' 'text:wiki/*.txt' --model.tokenizer vocab/

500,000 steps of 8,192 full rows of 512 tokens, cut from all text joined (--task.segments one keeps documents apart), with
DeBERTa's Adam at 6e-4 (3e-4 for --size deberta-v3-large) and b2 0.98; a generator as wide and half as deep, updated first in each step as in the released code (--task.no-decoupled for one
update of both). Detection weighs 50, as in the paper; the code's default is 10 (--task.weight 10). The discriminator's
word table is the generator's, without a gradient, plus its own deltas, and RUN/model holds the sum; --task.sharing
tables or none for the paper's ablations. Cost by count: not run at full length here.

A few minutes on two CPU cores:

    bertvariants train experiments/deberta_v3_base.py --tiny --out runs/deberta_v3_tiny \\
        --task.data 'text:wiki/*.txt.gz' --task.evaluation text:wikitext-2/valid.txt

Measured with --task.segments one (13k tokens/s on busy cores, 5 minutes) on Wikipedia's featured articles, evaluated on WikiText-2's validation text
at steps 500 and 3000: detection's loss 0.385 and 0.372 (the entropy of so many replaced tokens 0.409 and 0.400, which is
what the majority knows), its area under the curve 0.604 and 0.647, while the replacements get better: the generator's
masked accuracy 0.164 and 0.213 (the commonest piece makes 0.100), loss 5.24 and 4.49 (unigram 5.51). By majority alone
0.863 of the tokens are original, and the discriminator is as right as that: calling a word replaced takes a longer run.
"""

from bertvariants_jax.recipe import Compute, Detect, Optim, Recipe, Settings, model, replace


def recipe(size: str = "deberta-v3-base", tiny: bool = False, tokenizer: str = "") -> Recipe:
    """size: a published name. tiny: 2 layers of 128, for a few minutes. tokenizer: folder of a vocabulary; "" trains one
    on the text.
    """
    task = Detect(max_length=512, segments="joined", masking="windows", generator_width=1.0, generator_depth=0.5,
                  sharing="disentangled", decoupled=True)
    if tiny:
        return Recipe(
            task=replace(task, max_length=32),
            model=model(size, tokenizer, num_hidden_layers=2, hidden_size=128, num_attention_heads=4,
                        intermediate_size=512, vocab_size=2048, position_buckets=32, hidden_dropout_prob=0.0,
                        attention_probs_dropout_prob=0.0, initializer_range=0.06),
            optim=Optim("adamw", rate=2e-3, schedule="bert", warmup=0.1, b2=0.98),
            settings=Settings(steps=3000, batch_size=32, log_every=50, eval_every=500, save_every=500),
            compute=Compute(unroll=0),
        )
    return Recipe(
        task=task,
        model=replace(model(size, tokenizer), lowercase=False),
        optim=Optim("bert_adam", rate=3e-4 if size == "deberta-v3-large" else 6e-4, schedule="bert", warmup=10_000,
                    b2=0.98, weight_decay=0.01, clip=1.0),
        settings=Settings(steps=500_000, batch_size=8192, log_every=100, eval_every=10_000, save_every=1_000, keep_last=3),
        compute=Compute(dtype="bfloat16"),
        workers=8,
    )
