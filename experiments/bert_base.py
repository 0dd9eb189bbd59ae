"""BERT-base as the paper pre-trains it (arXiv:1810.04805, section A.2): masked LM and next-sentence prediction.

    bertvariants train experiments/bert_base.py --out runs/bert_base \\
        --task.data 'text:books/*.txt' 'text:wiki/*.txt' --model.tokenizer vocab/

1M steps of 256 sequences, BERT's Adam at 1e-4 with 10,000 steps of warm-up, masks written ten times and kept. This is
the first phase, 900,000 steps at length 128; the second goes on at length 512, with the moments of its last checkpoint and
further down the same schedule, from 1.0e-5 to 0:

    bertvariants train experiments/bert_base.py --phase 2 --start runs/bert_base --out runs/bert_base_512 ...

Whole-word masking, with which the later "wwm" checkpoints were made, is --task.masking words. Cost by count: 17.9 TFLOP
a step at length 128, so 16 EFLOP for the first phase; 4 days on 16 TPU v2 chips in the paper. Not run at full length here.

Some minutes on two CPU cores:

    bertvariants train experiments/bert_base.py --tiny --out runs/bert_tiny \\
        --task.data 'text:wiki/*.txt.gz' --task.evaluation text:wikitext-2/valid.txt

Measured (25k tokens/s, 11 minutes) on 7M words of Wikipedia's featured articles and seven novels, evaluated on WikiText-2's
validation text: masked accuracy 0.135 at loss 6.26 (its commonest piece makes 0.085; at step 1000 it is 0.119 at 6.44),
next-sentence accuracy 0.644 (majority 0.513); on the training text 0.140 and 0.762. With --task.max-length 32 and a
vocabulary of 4,096 it takes 4 minutes, but of such short pairs 85% are random ones, and that is all it learns of them.
"""

from bertvariants_jax.recipe import Compute, Model, Optim, Pretrain, Recipe, Settings, model


def recipe(phase: int = 1, start: str = "", tiny: bool = False, tokenizer: str = "") -> Recipe:
    """phase: 1 is 90% of the steps at length 128, 2 the rest at 512. start: for phase 2, the folder of the first one's run.
    tiny: two layers of 128 for a few minutes. tokenizer: folder of a vocabulary; "" trains one on the text.
    """
    if phase not in (1, 2):
        raise ValueError(f"phase must be 1 or 2, got {phase}")
    if bool(start) != (phase == 2):
        raise ValueError("phase 2 goes on where phase 1 stopped: it needs --start, the folder of that run, and phase 1 none")
    if tiny:
        return Recipe(
            task=Pretrain(max_length=128, max_predictions=20, dupe_factor=2),
            model=model("bert-tiny", tokenizer, **({} if tokenizer else {"vocab_size": 8192})),
            optim=Optim("adamw", rate=1e-3, schedule="shifted", warmup=0.05),
            settings=Settings(steps=4000, batch_size=32, log_every=50, eval_every=1000, save_every=500),
            compute=Compute(unroll=0),
        )
    length, steps = {1: (128, 900_000), 2: (512, 1_000_000)}[phase]
    return Recipe(
        task=Pretrain(max_length=length, max_predictions=20 if phase == 1 else 77, masks="static", dupe_factor=10),
        model=Model(f"{start}/model", tokenizer=tokenizer) if start else model("bert-base-uncased", tokenizer),
        optim=Optim("bert_adam", rate=1e-4, schedule="bert", schedule_steps=1_000_000, warmup=10_000,
                    weight_decay=0.01, clip=1.0),
        settings=Settings(steps=steps, continue_from=start, batch_size=256, log_every=100, eval_every=20_000,
                          save_every=2_000, keep_last=3),
        compute=Compute(dtype="bfloat16"),
        workers=4,
    )
