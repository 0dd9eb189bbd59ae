"""RoBERTa-base as the paper pre-trains it (arXiv:1907.11692): masked LM alone, over full sentences, masked anew each time.

    bertvariants train experiments/roberta_base.py --out runs/roberta_base \\
        --task.data 'text:books/*.txt' 'text:news/*.txt' --model.tokenizer vocab/

500,000 steps of 8,192 rows of 512 tokens; Adam with b2 0.98 at 6e-4 after 24,000 steps of warm-up, weight decay on every
parameter, no clipping. Rows are filled across documents (FULL-SENTENCES; --task.no-cross-documents is DOC-SENTENCES), each
sentence with its </s>, as fairseq does. --accumulate cuts a batch into parts that fit.
Cost by count: 2.5 PFLOP a step, 1.3 ZFLOP in all; about five days on 1,024 V100 in the paper. Not run at full length here.

A few minutes on two CPU cores:

    bertvariants train experiments/roberta_base.py --tiny --out runs/roberta_tiny \\
        --task.data 'text:wiki/*.txt.gz' --task.evaluation text:wikitext-2/valid.txt

Measured on Wikipedia's featured articles, evaluated on WikiText-2's validation text: masked accuracy 0.064 at step 50, 0.218
at 2500 in training, 0.195 (loss 6.24) in evaluation, where the commonest piece, </s>, makes 0.042 and its frequencies a
loss of 7.51; a part of it is <s>, which always stands first.
"""

from bertvariants_jax.recipe import Compute, Optim, Pretrain, Recipe, Settings, model


def recipe(tiny: bool = False, tokenizer: str = "") -> Recipe:
    """tiny: two layers of 128 for a few minutes. tokenizer: folder of a vocabulary; "" trains one on the text."""
    if tiny:
        return Recipe(
            task=Pretrain(max_length=32, pairs="none", masking="fairseq", line_ends=True),
            model=model("roberta-base", tokenizer, num_hidden_layers=2, hidden_size=128, num_attention_heads=4,
                        intermediate_size=512, vocab_size=4096, hidden_dropout_prob=0.0,
                        attention_probs_dropout_prob=0.0, initializer_range=0.06),
            optim=Optim("adamw", rate=4e-3, schedule="shifted", warmup=0.05, b2=0.98, decay="all", clip=0.0),
            settings=Settings(steps=2500, batch_size=64, log_every=50, eval_every=1000, save_every=1000),
            compute=Compute(unroll=0),
        )
    return Recipe(
        task=Pretrain(max_length=512, pairs="none", masking="fairseq", line_ends=True),
        model=model("roberta-base", tokenizer),
        optim=Optim("adamw", rate=6e-4, schedule="shifted", warmup=24_000, b2=0.98, weight_decay=0.01, decay="all",
                    clip=0.0),
        settings=Settings(steps=500_000, batch_size=8192, log_every=100, eval_every=10_000, save_every=1_000, keep_last=3),
        compute=Compute(dtype="bfloat16"),
        workers=8,
    )
