"""DistilBERT (arXiv:1910.01108): a student of half its teacher's layers, by soft targets, masked LM and hidden states.

    bertvariants train experiments/distilbert_base.py --teacher google-bert/bert-base-uncased --out runs/distilbert \\
        --task.data 'text:books/*.txt' 'text:wiki/*.txt'

3 epochs in batches of 4,000 rows, AdamW at 5e-4 with 5% of warm-up, without decay. The student starts from layers
0, 2, 4, 7, 9, 11 of its teacher and keeps its vocabulary; its positions stay the teacher's, without a gradient, as in the
original (--task.train-positions trains them). --plain is the distillation script's own default instead of
its README's 5, 2, 1: half soft targets, half masked LM, no cosine.

    bertvariants train experiments/distilbert_base.py --tiny --teacher runs/bert_tiny/model --out runs/distilbert_tiny \\
        --task.data 'text:wiki/*.txt.gz' --task.evaluation text:wikitext-2/valid.txt

Cost by count: 340 GFLOP a row of 512 tokens, 121 of them the teacher's. Not run at full length here (90 hours on 8 V100 in
the paper).

Measured, tiny on 2 CPU cores (600 steps in 3 minutes alone), from one layer of a BERT-tiny of 8,192 pieces that had seen
16M tokens; on WikiText-2's validation text, masked as in training, per token, before and after: T^2 KL 0.97 to 0.059
(2.08 for the best answer that is always the same), the teacher's first choice 0.839 to 0.923 (0.197), 1 - cosine 0.120 to
0.021. Masked-LM loss 7.98 (unigram 8.87: masks fall on rare words) at accuracy 0.103, the teacher's 0.086.
"""

from bertvariants_jax.recipe import Compute, Distil, Optim, Recipe, Settings, model


def recipe(teacher: str = "google-bert/bert-base-uncased", tiny: bool = False, plain: bool = False) -> Recipe:
    """teacher: folder or hub id of a masked LM. tiny: one layer from a teacher of width 128. plain: see above."""
    alphas = {"alpha_ce": 0.5, "alpha_mlm": 0.5, "alpha_cos": 0.0} if plain else {}
    if tiny:
        small = {"vocab_size": 4096, "dim": 128, "n_layers": 1, "n_heads": 2, "hidden_dim": 512, "dropout": 0.0,
                 "attention_dropout": 0.0}
        return Recipe(
            task=Distil(max_length=64, teacher=teacher, **alphas),
            model=model("distilbert-base-uncased", **small),
            optim=Optim("adamw", rate=1e-3, schedule="shifted", warmup=0.05, b2=0.98, weight_decay=0.0, clip=5.0),
            settings=Settings(steps=600, batch_size=32, log_every=20, eval_every=300, save_every=100),
            compute=Compute(unroll=0),
        )
    return Recipe(
        task=Distil(max_length=512, teacher=teacher, **alphas),
        model=model("distilbert-base-uncased"),
        optim=Optim("adamw", rate=5e-4, schedule="shifted", warmup=0.05, b2=0.98, weight_decay=0.0, clip=5.0),
        settings=Settings(steps=0, epochs=3, batch_size=4_096, accumulate=32, log_every=10, eval_every=500, save_every=100),
        compute=Compute(dtype="bfloat16"),
        workers=4,
    )
