"""ERNIE 1.0 base for Chinese as the paper and its code pre-train it (arXiv:1904.09223): knowledge masking in three stages.

    bertvariants train experiments/ernie_base_zh.py --stage basic --out runs/ernie_basic \\
        --task.data 'text:wiki/*.txt.gz' 'text:news/*.txt' --task.dialogues 'text:talks/*.txt' --model.tokenizer ernie-1.0/
    bertvariants train experiments/ernie_base_zh.py --stage phrase --start runs/ernie_basic/model --out runs/ernie_phrase ...
    bertvariants train experiments/ernie_base_zh.py --stage entity --start runs/ernie_phrase/model --out runs/ernie_entity ...

basic hides characters, phrase words as jieba cuts them (`pip install bertvariants_jax[chinese]`), entity the names that
jieba tags; `--task.units field:NAME` takes units that stand in the data, `--task.units MODULE:FUNCTION` another segmenter.
The code's numbers: Adam with decoupled decay 0.01, 1e-4, 5,000 of 1M steps of warm-up, clipping at 1.0, 8,192 tokens a
card (16 rows of 512, here on 16 cards). How long each stage lasted is not known; a third of the steps here.

    bertvariants train experiments/ernie_base_zh.py --tiny --out runs/ernie_tiny --task.data 'text:wiki/*.txt.gz'

Measured on 2 shared CPU cores in 4 minutes, stage basic on 2M tokens of Chinese Wikipedia, on the 2% of its documents kept
aside: masked accuracy 0.132 at loss 6.46 (its commonest token makes 0.042; 0.123 at 6.64 after 400 of 1,200 steps), true
pairs told from random ones 0.658 (the commoner kind 0.623); on the training text 0.133 and 0.699.
"""

from bertvariants_jax.recipe import Compute, Knowledge, Model, Optim, Recipe, Settings, model

UNITS = {"basic": "", "phrase": "jieba:lcut", "entity": "bertvariants_jax.data.units:chinese_entities"}


def recipe(tiny: bool = False, stage: str = "basic", start: str = "", tokenizer: str = "") -> Recipe:
    """stage: basic, phrase or entity. start: the model folder of the stage before ("" is fresh weights).
    tiny: 2 layers of width 128 on rows of 64, minutes on a laptop. tokenizer: folder of a vocabulary."""
    if stage not in UNITS:
        raise ValueError(f"stage must be basic, phrase or entity, got {stage!r}")
    units = {"units": UNITS[stage], "mask_word_prob": float(stage != "basic")}
    if tiny:
        small = {"vocab_size": 8192, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
                 "intermediate_size": 512, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return Recipe(
            task=Knowledge(max_length=64, max_predictions=16, dupe_factor=4, **units),
            model=Model(start=start, tokenizer=tokenizer) if start else model("ernie-1.0-base-zh", tokenizer, **small),
            optim=Optim("adamw", rate=2e-3 if start else 3e-3, schedule="bert", warmup=0.1, b2=0.98),
            settings=Settings(steps=400 if start else 1200, batch_size=64, log_every=50, eval_every=400, save_every=200),
            compute=Compute(unroll=0),
        )
    return Recipe(
        task=Knowledge(max_length=512, **units),
        model=Model(start=start, tokenizer=tokenizer) if start else model("ernie-1.0-base-zh", tokenizer),
        optim=Optim("adamw", rate=1e-4, schedule="bert", warmup=5_000, eps=1e-8, weight_decay=0.01, clip=1.0),
        settings=Settings(steps=333_000, batch_size=256, log_every=100, eval_every=20_000, save_every=2_000, keep_last=3),
        compute=Compute(dtype="bfloat16"),
        workers=8,
    )
