"""DeBERTa-base as the paper pre-trains it (arXiv:2006.03654): masked LM over n-grams, read out by the enhanced mask decoder.

    bertvariants train experiments/deberta_base.py --out runs/deberta_base \\
        --task.data 'text:books/*.txt' 'text:wiki/*.txt' --model.tokenizer vocab/

1M steps of 2,048 rows of 512 tokens with BERT's Adam at 2e-4 after 10,000 steps of warm-up. Rows are full, cut from all
text joined. Absolute positions join before the last layer only, which runs twice there: `enhanced_mask_decoder` in the
config, whose table is saved beside the encoder's (HF has no such decoder and ignores it). The 1.5B model, at 1.5e-4:

    bertvariants train experiments/deberta_base.py --size deberta-v2-xxlarge --out runs/deberta_v2_xxlarge ...

Cost by count: 1.0 PFLOP a step, 1.0 ZFLOP in all; 10 days on 64 V100 in the paper. Not run at full length here.

A few minutes on two CPU cores:

    bertvariants train experiments/deberta_base.py --tiny --out runs/deberta_tiny \\
        --task.data 'text:wiki/*.txt.gz' --task.evaluation text:wikitext-2/valid.txt

Measured with --task.no-joined on Wikipedia's featured articles, evaluated on WikiText-2's validation text: masked accuracy 0.045 at step 50 (loss
7.59), 0.208 at 1400 (5.39) in training; 0.136 (6.12) in evaluation, where the commonest piece makes 0.040 and its
frequencies a loss of 7.43.
"""

from bertvariants_jax.recipe import Compute, Optim, Pretrain, Recipe, Settings, model, replace


def recipe(size: str = "deberta-base", tiny: bool = False, tokenizer: str = "") -> Recipe:
    """size: a published name of version 1 or 2. tiny: two layers of 128 for a few minutes. tokenizer: folder of a
    vocabulary; "" trains one on the text.
    """
    if tiny:
        return Recipe(
            task=Pretrain(max_length=32, pairs="none", joined=True, masking="windows"),
            model=model(size, tokenizer, num_hidden_layers=2, hidden_size=128, num_attention_heads=4,
                        intermediate_size=512, vocab_size=4096, hidden_dropout_prob=0.0,
                        attention_probs_dropout_prob=0.0, initializer_range=0.06, enhanced_mask_decoder=True),
            optim=Optim("bert_adam", rate=2e-3, schedule="bert", warmup=0.05, b2=0.98),
            settings=Settings(steps=1500, batch_size=64, log_every=50, eval_every=1000, save_every=1000),
            compute=Compute(unroll=0),
        )
    return Recipe(
        task=Pretrain(max_length=512, pairs="none", joined=True, masking="windows"),
        model=replace(model(size, tokenizer, enhanced_mask_decoder=True), lowercase=False),
        optim=Optim("bert_adam", rate=1.5e-4 if size == "deberta-v2-xxlarge" else 2e-4, schedule="bert", warmup=10_000,
                    weight_decay=0.01, clip=1.0),
        settings=Settings(steps=1_000_000, batch_size=2048, log_every=100, eval_every=20_000, save_every=1_000,
                          keep_last=3),
        compute=Compute(dtype="bfloat16"),
        workers=8,
    )
