"""XLNet as the paper pre-trains it (arXiv:1906.08237, section 3.1): permutation LM with two streams and a memory.

    bertvariants train experiments/xlnet_base.py --out runs/xlnet_base \\
        --task.data 'text:books/*.txt' 'text:wiki/*.txt' --model.tokenizer vocab/

Rows of 512 with 256 reused and 384 remembered, 85 targets, Adam with 40,000 steps of warm-up to 4e-4, 500k steps. The
base network takes the batch of 2,048 that the released code's README gives; --size large is the published model with
the paper's 8,192, for which it needed 5.5 days on 512 TPU v3 chips and 33B pieces of text. Not run at full length here.

    bertvariants train experiments/xlnet_base.py --tiny --out runs/xlnet_tiny \\
        --task.data 'text:wiki/*.txt.gz'

Cost of tiny by count: 14 TFLOP. Measured on 2 busy CPU cores (15k tokens/s, 200 seconds behind a vocabulary that was
there already; to train one takes one or two minutes) on 3.6M words of Wikipedia's featured articles, of which 2% of the
documents are kept aside: accuracy on the targets 0.025 at loss 7.54 over the first 50 steps, 0.060 at 6.26 at step 100,
which is the level of their unigrams, 0.182 at 5.30 at step 500 and 0.237 at 4.78 at the end. On the documents kept aside,
which are read without memory, 0.220 at 4.96; their commonest piece makes 0.060, their unigram entropy is 6.06.
"""

from bertvariants_jax.recipe import Compute, Optim, Permute, Recipe, Settings, model, replace


def recipe(tiny: bool = False, size: str = "base", tokenizer: str = "") -> Recipe:
    """tiny: 2 layers of width 128 on rows of 64, minutes on a laptop. size: base or large. tokenizer: folder of a
    SentencePiece vocabulary with <eod>; "" trains one on the text."""
    if tiny:
        small = {"vocab_size": 4096, "d_model": 128, "n_layer": 2, "n_head": 2, "d_inner": 512, "dropout": 0.0}
        return Recipe(
            task=Permute(max_length=64, reuse_len=32, mem_len=32, perm_size=32, num_predict=10),
            model=model("xlnet-base-cased", tokenizer, **small),
            optim=Optim("adamw", rate=3e-3, schedule="xlnet", warmup=0.1, b2=0.98),
            settings=Settings(steps=1500, batch_size=32, log_every=50, save_every=500),
            compute=Compute(unroll=0),
        )
    if size not in ("base", "large"):
        raise ValueError(f"size must be base or large, got {size!r}")
    batch_size = 8192 if size == "large" else 2048
    return Recipe(
        task=Permute(),
        model=replace(model(f"xlnet-{size}-cased", tokenizer, ff_activation="gelu_new"), lowercase=False),
        optim=Optim("bert_adam", rate=4e-4, schedule="xlnet", warmup=40_000, end=0.001, weight_decay=0.01, clip=1.0),
        settings=Settings(steps=500_000, batch_size=batch_size, log_every=100, eval_every=20_000, save_every=2_000,
                          keep_last=3),
        compute=Compute(dtype="bfloat16"),
        workers=4,
    )
