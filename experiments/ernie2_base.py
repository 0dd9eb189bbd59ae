"""ERNIE 2.0 base for English as the paper pre-trains it (arXiv:1907.12412): tasks added one by one, none given up.

    bertvariants train experiments/ernie2_base.py --stage 1 --out runs/ernie2_1 \\
        --task.data 'text:books/*.txt' 'text:wiki/*.txt' --model.tokenizer bert-base-uncased/
    bertvariants train experiments/ernie2_base.py --stage 2 --start runs/ernie2_1/model --out runs/ernie2_2 ...

and so on to stage 5: knowledge masking, capitalisation, token-document relation, sentence reordering, sentence distance;
stage k trains the first k together, from the model of the stage before. 393,216 tokens a step (768 rows of 512), Adam
with betas 0.9 and 0.98 at 5e-5, 4,000 steps of warm-up for each task, then the inverse square root. Words are the units
that are hidden; `--task.units MODULE:FUNCTION` takes phrases or entities of your own. How long each stage lasted is not
known; 100,000 steps here.

    bertvariants train experiments/ernie2_base.py --tiny --out runs/ernie2_tiny \\
        --task.data 'text:wiki/*.txt.gz' --task.evaluation text:wikitext-2/valid.txt

Measured on 2 shared CPU cores in 4 minutes (1,000 steps, all tasks at once), on WikiText-2's validation text: masked
accuracy 0.129 at loss 6.24 (its commonest token makes 0.076; training loss 7.51 at step 50), capitals 0.850 at loss 0.332
(the commoner answer 0.844, their entropy 0.433), relation 0.913 at 0.259 (0.913, 0.296), reordering 0.740 at 0.458 (best
guess from the number of segments 0.747), distance 0.347 (one of three): the questions about whole rows take longer.
"""

from bertvariants_jax.recipe import Compute, Continual, Model, Optim, Recipe, Settings, model

TASKS = ("masking", "capital", "relation", "reorder", "distance")


def recipe(tiny: bool = False, stage: int = 5, start: str = "", tokenizer: str = "") -> Recipe:
    """stage: how many of the tasks. start: the model folder of the stage before ("" is fresh weights).
    tiny: 2 layers of width 128 on rows of 128, minutes on a laptop. tokenizer: folder of an uncased vocabulary."""
    if not 1 <= stage <= len(TASKS):
        raise ValueError(f"stage must be 1 to {len(TASKS)}, got {stage}")
    if tiny:
        small = {"vocab_size": 4096, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
                 "intermediate_size": 512, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return Recipe(
            task=Continual(tasks=TASKS[:stage], max_length=128, max_predictions=28),
            model=Model(start=start, tokenizer=tokenizer) if start else model("ernie-2.0-base-en-tasks", tokenizer, **small),
            optim=Optim("adamw", rate=3e-3, schedule="noam", warmup=100, b2=0.98),
            settings=Settings(steps=1000, batch_size=32, log_every=50, eval_every=0, save_every=250),
            compute=Compute(unroll=0),
        )
    return Recipe(
        task=Continual(tasks=TASKS[:stage], max_length=512),
        model=Model(start=start, tokenizer=tokenizer) if start else model("ernie-2.0-base-en-tasks", tokenizer),
        optim=Optim("adamw", rate=5e-5, schedule="noam", warmup=4_000, b2=0.98, eps=1e-8, weight_decay=0.01),
        settings=Settings(steps=100_000, batch_size=768, log_every=100, eval_every=10_000, save_every=2_000, keep_last=3),
        compute=Compute(dtype="bfloat16"),
        workers=8,
    )
