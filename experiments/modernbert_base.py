"""ModernBERT-base as the paper pre-trains it (arXiv:2412.13663): masked LM at 30% over packed documents, in three phases.

    bertvariants train experiments/modernbert_base.py --out runs/modernbert/1 --task.data 'text:web/*.txt' \\
        --model.tokenizer vocab/
    bertvariants train experiments/modernbert_base.py --phase 2 --start runs/modernbert/1 --out runs/modernbert/2 ...
    bertvariants train experiments/modernbert_base.py --phase 3 --start runs/modernbert/2 --out runs/modernbert/3 ...

1: 1.7T tokens at length 1024 and rotary theta 10,000 everywhere; batches grow from 768 to 4,608 rows over the first 50B
tokens, by a row for each of the paper's eight GPUs (--batch-warmup-by, which more devices must divide), and the rate rises
with the tokens to 8e-4 at 3B, where it stays. 2: 250B tokens at length 8192, theta 160,000 in the global layers, 3e-4. 3: 50B
tokens over which that rate falls as 1 - sqrt. StableAdamW without clipping; evaluation masks 15%. Each phase goes
on with the moments and the step count of the one before, so --steps counts them all. attention_dropout is HF's field, which
drops out the scores too; the original only what the layer gives.
Cost by count: 4.1 PFLOP a step of 4,608 rows, 1.5 ZFLOP in the first phase and 0.4 in the others; 194 hours on 8 H100 for
all three in the paper. Not run at full length here.

A few minutes on two CPU cores:

    bertvariants train experiments/modernbert_base.py --tiny --out runs/modernbert_tiny \\
        --task.data 'text:wiki/*.txt.gz' --task.evaluation text:wikitext-2/valid.txt

Measured on Wikipedia's featured articles, evaluated on WikiText-2's validation text: masked accuracy 0.031 at step 50 (loss
7.74), 0.268 at 1400 (4.54) in training at 30%; 0.218 (5.04) in evaluation at 15%, where the commonest piece makes 0.039 and
its frequencies a loss of 7.28.
"""

from bertvariants_jax.recipe import Compute, Model, Optim, Pretrain, Recipe, Settings, model, replace


def recipe(phase: int = 1, start: str = "", tiny: bool = False, tokenizer: str = "") -> Recipe:
    """phase: 1, 2 (longer context) or 3 (decay). start: the run folder of the phase before. tiny: three layers of 128
    for a few minutes. tokenizer: folder of a vocabulary; "" trains one on the text.
    """
    if phase not in (1, 2, 3):
        raise ValueError(f"phase must be 1, 2 or 3, got {phase}")
    if bool(start) != (phase > 1):
        raise ValueError("phases 2 and 3 go on from the phase before: they need --start, the folder of its run, and phase 1 "
                         "none")
    start = start.rstrip("/").removesuffix("/model")    # its model folder names the run too
    length, steps, rows, rate = {          # steps: to the end of the phase, counted from the first one's beginning
        1: (1024, 372_000, 4608, 8e-4), 2: (8192, 425_000, 576, 3e-4), 3: (8192, 435_600, 576, 3e-4)}[phase]
    optim = Optim("stable_adamw", rate=rate, schedule="wsd" if phase == 3 else "constant",
                  warmup=2_773 if phase == 1 else 0, cooldown=10_600, end=0.001, b2=0.98, weight_decay=1e-5, clip=0.0)
    growth = {"batch_warmup_from": 768, "batch_warmup": 18_192, "batch_warmup_by": 8} if phase == 1 else {}
    settings = Settings(steps=steps, batch_size=rows, log_every=100, eval_every=5_000, save_every=1_000, keep_last=3,
                        **growth)
    network = model("ModernBERT-base", tokenizer, global_rope_theta=1e4, attention_dropout=0.1)
    compute = Compute(dtype="bfloat16")
    if tiny:
        length, optim, settings, compute = tiny_run(phase)
        network = model("ModernBERT-base", tokenizer, num_hidden_layers=3, hidden_size=128, num_attention_heads=2,
                        intermediate_size=192, vocab_size=4096, global_rope_theta=1e4, local_attention=32)
    if start:
        network = Model(start=f"{start}/model", tokenizer=tokenizer, changes={"global_rope_theta": 1.6e5})
        settings = replace(settings, continue_from=start)
    task = Pretrain(max_length=length, pairs="none", cross_documents=False, pack=True, masking="bernoulli", mask_rate=0.3,
                    eval_mask_rate=0.15)
    return Recipe(task=task, model=network, optim=optim, settings=settings, compute=compute, workers=0 if tiny else 8)


def tiny_run(phase: int):
    """Length, optimizer, settings and compute of two CPU cores; rows of the second phase are four times as long."""
    length, steps, rows = {1: (64, 1500, 32), 2: (256, 1800, 16), 3: (256, 2100, 16)}[phase]
    optim = Optim("stable_adamw", rate=4e-3 if phase == 1 else 1e-3, schedule="wsd", warmup=150 if phase == 1 else 0,
                  end=0.001, cooldown=300, b2=0.98, weight_decay=1e-5, clip=0.0)
    settings = Settings(steps=steps, batch_size=rows, batch_warmup_from=rows // 4 if phase == 1 else 0,
                        batch_warmup=150 if phase == 1 else 0, log_every=50, eval_every=1000, save_every=1000)
    return length, optim, settings, Compute(unroll=0)
