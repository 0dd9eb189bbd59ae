"""ELECTRA as the paper pre-trains it (arXiv:2003.10555, table 6): a generator writes, a discriminator tells what it wrote.

    bertvariants train experiments/electra_small.py --out runs/electra_small \\
        --task.data 'text:books/*.txt' 'text:wiki/*.txt' --model.tokenizer vocab/

1M steps of 128 rows of 128 tokens, BERT's Adam at 5e-4; --size base (766,000 steps of 256 x 512 at 2e-4) and large
(400,000 of 2,048 x 512, a quarter of the tokens hidden). RUN/model is the discriminator, RUN/generator the generator.
The ablations of section 3.4: --task.target rtd_masked (ELECTRA 15%), replace_mlm, all_tokens_mlm (with --task.weight 1),
--task.sharing none; and in two stages, generator and discriminator of one size:

    bertvariants train experiments/electra_small.py --stage generator --out runs/first ...
    bertvariants train experiments/electra_small.py --stage discriminator --generator runs/first/model --out runs/second ...

Cost in the paper: 1.4e18 FLOP and 4 days on one V100 (small), 6.4e19 (base), 7.1e20 (large). Not run at full length here.

A few minutes on two CPU cores:

    bertvariants train experiments/electra_small.py --tiny --out runs/electra_tiny \\
        --task.data 'text:wiki/*.txt.gz' --task.evaluation text:wikitext-2/valid.txt

Measured on 4M tokens of Wikipedia's featured articles, evaluated on WikiText-2's validation text: the generator goes from 0.030
to 0.188 masked accuracy (its commonest piece makes 0.072), at loss 5.82; detection has not left its
majority, 0.886, with an area under the curve of 0.560 and no word found.
"""

from bertvariants_jax.recipe import Compute, Detect, Optim, Recipe, Settings, model, replace

# length, batch, steps, rate, generator's width, hidden share
SIZES = {"small": (128, 128, 1_000_000, 5e-4, 1 / 4, 0.15), "base": (512, 256, 766_000, 2e-4, 1 / 3, 0.15),
         "large": (512, 2048, 400_000, 2e-4, 1 / 4, 0.25)}


def recipe(size: str = "small", stage: str = "both", generator: str = "", tiny: bool = False,
           tokenizer: str = "") -> Recipe:
    """size: small, base, large. stage: both, or the two-stage training's generator and then, with the folder that this
    has left as `generator`, discriminator. tiny: 2 layers of 128, for a few minutes. tokenizer: folder of a vocabulary;
    "" trains one on the text.
    """
    length, batch, steps, rate, width, share = SIZES[size]
    task = Detect(max_length=length, mask_rate=share, generator_width=width)
    network = model(f"electra-{size}-discriminator", tokenizer)
    optim = Optim("bert_adam", rate=rate, schedule="electra", warmup=10_000, weight_decay=0.01, clip=1.0)
    settings = Settings(steps=steps, batch_size=batch, log_every=100, eval_every=20_000, save_every=2_000, keep_last=3)
    if tiny:
        task = replace(task, max_length=64, generator_width=0.5)
        network = model("electra-small-discriminator", tokenizer, num_hidden_layers=2, hidden_size=128,
                        num_attention_heads=2, intermediate_size=512, vocab_size=4096, hidden_dropout_prob=0.0,
                        attention_probs_dropout_prob=0.0)
        optim = Optim("adamw", rate=2e-3, schedule="electra", warmup=0.1, b2=0.98)
        settings = Settings(steps=1000, batch_size=64, log_every=50, eval_every=500, save_every=500)
    if stage != "both":
        task = replace(task, train=stage, generator=generator, sharing="none")
    return Recipe(task, network, optim, settings, Compute(unroll=0) if tiny else Compute(dtype="bfloat16"),
                  workers=0 if tiny else 4)
