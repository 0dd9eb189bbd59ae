"""SpanBERT-base as the paper pre-trains it (arXiv:1907.10529, section 4): spans of whole words, told from inside and from beside.

    bertvariants train experiments/spanbert_base.py --out runs/spanbert_base \\
        --task.data 'text:books/*.txt' 'text:wiki/*.txt' --model.tokenizer vocab/

2.4M steps of 256 single-document segments of 512 tokens, Adam at 1e-4 with 10,000 steps of warm-up; decay 0.01 and on
every parameter, as in fairseq (the paper says 0.1). The code divides the gradients of a mean by the masked tokens once more,
some 600 a worker, which Adam undoes: so its clipping at 1.0 never acts, and its eps of 1e-8 acts as 6e-6; both stand here
as they act.

    bertvariants train experiments/spanbert_base.py --tiny --out runs/spanbert_tiny \\
        --task.data 'text:wiki/*.txt.gz' --task.evaluation text:wikitext-2/valid.txt

Cost by count: 80 TFLOP a step, so 190 EFLOP; 15 days on 32 V100 for the large model in the paper. Not run at full length here.

Measured, tiny on 2 CPU cores (34k tokens/s alone, 5 minutes) on 4M words of Wikipedia's featured articles, evaluated on
WikiText-2's validation text, from step 600 to 2400: boundary loss 6.65 to 6.44 (unigram 6.91) at accuracy 0.060 to 0.066
(the commonest piece 0.042); masked-LM loss 6.32 to 6.10 at accuracy 0.147 to 0.159. A tenth of the spans stand there
unchanged; where [MASK] does, the loss is 6.62 (unigram 6.82) and the accuracy 0.064 (0.041).
"""

from bertvariants_jax.recipe import Compute, Optim, Recipe, Settings, Spans, model, replace


def recipe(tiny: bool = False, tokenizer: str = "") -> Recipe:
    """tiny: 2 layers of width 128 on segments of 64, minutes on a laptop. tokenizer: folder of a vocabulary."""
    if tiny:
        small = {"vocab_size": 4096, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
                 "intermediate_size": 512, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return Recipe(
            task=Spans(max_length=64),
            model=model("spanbert-base-cased", tokenizer, **small),
            optim=Optim("adamw", rate=3e-3, schedule="shifted", warmup=0.1, b2=0.98),
            settings=Settings(steps=2400, batch_size=64, log_every=50, eval_every=600, save_every=1200),
            compute=Compute(unroll=0),
        )
    return Recipe(
        task=Spans(max_length=512),
        model=replace(model("spanbert-base-cased", tokenizer), lowercase=False),
        # trainer.py: gradients of spanbert_loss.py's means x workers / masked tokens of all = 1/614 of a worker's
        optim=Optim("adamw", rate=1e-4, schedule="shifted", warmup=10_000, eps=6e-6, weight_decay=0.01, decay="all",
                    clip=0.0),
        settings=Settings(steps=2_400_000, batch_size=256, log_every=100, eval_every=20_000, save_every=2_000, keep_last=3),
        compute=Compute(dtype="bfloat16"),
        workers=4,
    )
