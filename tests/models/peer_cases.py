"""What the parity tests need to know of each variant: HF configs of odd sizes with options on and off."""

from dataclasses import dataclass, field

IDS = ("input_ids", "attention_mask")             # of variants without token types


@dataclass(frozen=True)
class Case:
    """config: HF's config class and keyword arguments. left: whether padding stands on the left."""

    variant: str
    config: str
    options: dict
    left: bool = False
    segments: int = 2
    inputs: tuple[str, ...] = ("input_ids", "attention_mask", "token_type_ids")
    further: dict = field(default_factory=dict)   # another input -> how many values it takes
    skip: dict = field(default_factory=dict)      # HF class -> why it is no reference
    tolerance: float = 2e-5
    seed: int = 0                                 # another one where a relu would stand on its kink

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.options.get('label', '')}"


def small(**options):
    return {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3,
            "intermediate_size": 40, "max_position_embeddings": 40, **options}


def roberta(**options):
    return small(**{"max_position_embeddings": 42, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1,
                    **options})


def modernbert(**options):
    return small(**{"local_attention": 6, "pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2,
                    "sep_token_id": 2, **options})


def xlnet(**options):
    return {"vocab_size": 61, "d_model": 24, "n_layer": 3, "n_head": 3, "d_inner": 40, "start_n_top": 3, "end_n_top": 4,
            **options}


def distilbert(**options):
    return {"vocab_size": 61, "dim": 24, "n_layers": 3, "n_heads": 3, "hidden_dim": 40, "max_position_embeddings": 40,
            **options}


def deberta(**options):
    """As the published files say; HF's own defaults are others."""
    return small(**{"relative_attention": True, "position_biased_input": False, "pos_att_type": "c2p|p2c",
                    "type_vocab_size": 0, "layer_norm_eps": 1e-7, "legacy": False, **options})


def deberta_v2(**options):
    return deberta(**{"position_buckets": 6, "share_att_key": True, "norm_rel_ebd": "layer_norm", **options})


DEBERTA_CHOICE = {"DebertaForMultipleChoice": "transformers has no such class"}


CASES = [
    Case("bert", "BertConfig", small()),
    Case("bert", "BertConfig", small(hidden_act="gelu_new", num_hidden_layers=1, num_attention_heads=1,
                                     layer_norm_eps=1e-3, num_labels=5)),
    Case("bert", "BertConfig", small(hidden_act="relu", num_hidden_layers=5, hidden_size=40, num_attention_heads=4,
                                     type_vocab_size=3, num_labels=1, classifier_dropout=0.3), segments=3, seed=1),
    Case("roberta", "RobertaConfig", roberta(hidden_act="relu"), segments=1),
    Case("roberta", "XLMRobertaConfig", roberta(hidden_act="gelu_new", num_hidden_layers=1, num_attention_heads=1,
                                                layer_norm_eps=1e-3, num_labels=5, classifier_dropout=0.3),
         segments=1),
    Case("roberta", "CamembertConfig", roberta(num_hidden_layers=5, hidden_size=40, num_attention_heads=4,
                                               type_vocab_size=2, num_labels=1, pad_token_id=0), segments=2),
    Case("xlm-roberta-xl", "XLMRobertaXLConfig", roberta(), segments=1),
    Case("xlm-roberta-xl", "XLMRobertaXLConfig", roberta(
        hidden_act="gelu_new", num_hidden_layers=1, num_attention_heads=1, layer_norm_eps=1e-3, num_labels=5), segments=1),
    Case("xlm-roberta-xl", "XLMRobertaXLConfig", roberta(
        num_hidden_layers=5, hidden_size=40, num_attention_heads=4, type_vocab_size=2, num_labels=1), segments=2),
    Case("albert", "AlbertConfig", small(embedding_size=16)),
    Case("albert", "AlbertConfig", small(embedding_size=8, hidden_act="gelu", num_hidden_layers=5, num_hidden_groups=2,
                                         inner_group_num=2, hidden_size=40, num_attention_heads=4, type_vocab_size=3,
                                         num_labels=1), segments=3),
    Case("albert", "AlbertConfig", small(embedding_size=24, hidden_act="relu", num_hidden_groups=3,
                                         num_attention_heads=1, layer_norm_eps=1e-3, num_labels=5)),
    Case("albert", "AlbertConfig", small(embedding_size=48, num_hidden_layers=2, num_hidden_groups=5,
                                         hidden_dropout_prob=0.2)),
    Case("distilbert", "DistilBertConfig", distilbert(), inputs=IDS),
    Case("distilbert", "DistilBertConfig", distilbert(activation="relu", n_layers=2, n_heads=1, num_labels=5),
         inputs=IDS),
    Case("distilbert", "DistilBertConfig", distilbert(activation="gelu_new", n_layers=5, dim=40, n_heads=4, num_labels=1),
         inputs=IDS),
    Case("ernie", "ErnieConfig", small(hidden_act="relu", max_position_embeddings=41, layer_norm_eps=1e-5)),
    Case("ernie", "ErnieConfig", small(use_task_id=True, num_hidden_layers=2, num_attention_heads=1, num_labels=5,
                                       layer_norm_eps=1e-5), further={"task_type_ids": 3}),
    Case("ernie", "ErnieConfig", small(
        use_task_id=True, task_type_vocab_size=16, type_vocab_size=4, hidden_act="gelu_new", num_hidden_layers=5,
        hidden_size=40, num_attention_heads=4, num_labels=1), segments=4, further={"task_type_ids": 16}),
    Case("electra", "ElectraConfig", small(embedding_size=16)),
    Case("electra", "ElectraConfig", small(embedding_size=24, hidden_act="gelu_new", num_hidden_layers=2,
                                           num_attention_heads=1, layer_norm_eps=1e-3, num_labels=5,
                                           summary_use_proj=False, summary_activation="tanh")),
    Case("electra", "ElectraConfig", small(embedding_size=48, hidden_act="relu", num_hidden_layers=5, hidden_size=40,
                                           num_attention_heads=4, type_vocab_size=3, num_labels=1,
                                           classifier_dropout=0.3, summary_last_dropout=0.0), segments=3),
    Case("modernbert", "ModernBertConfig", modernbert(num_hidden_layers=5), inputs=IDS),
    Case("modernbert", "ModernBertConfig", modernbert(
        num_hidden_layers=8, global_attn_every_n_layers=2, local_attention=9, hidden_size=40, num_attention_heads=5,
        norm_bias=True, attention_bias=True, mlp_bias=True, classifier_bias=True, norm_eps=1e-3, num_labels=5,
        classifier_pooling="mean", attention_dropout=0.2, mlp_dropout=0.1, classifier_dropout=0.3), inputs=IDS),
    Case("modernbert", "ModernBertConfig", modernbert(
        num_hidden_layers=4, layer_types=["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 500.0},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 70.0}},
        local_attention=2, hidden_activation="silu", classifier_activation="gelu_new", decoder_bias=False,
        classifier_pooling="mean", num_labels=1), left=True, inputs=IDS),
    Case("modernbert", "ModernBertConfig", modernbert(num_hidden_layers=1, num_attention_heads=1), inputs=IDS),
    Case("xlnet", "XLNetConfig", xlnet(), left=True),
    Case("xlnet", "XLNetConfig", xlnet(attn_type="uni", clamp_len=3, ff_activation="gelu_new", n_layer=2, n_head=1,
                                       layer_norm_eps=1e-3, num_labels=5, summary_type="first",
                                       summary_activation="gelu", start_n_top=1),
         inputs=("input_ids", "token_type_ids")),              # HF's "uni" takes no attention_mask of several rows
    Case("xlnet", "XLNetConfig", xlnet(bi_data=True, clamp_len=4, ff_activation="silu", n_layer=5, d_model=40, n_head=4,
                                       num_labels=1, summary_type="mean", summary_use_proj=False, dropout=0.3,
                                       end_n_top=2), left=True, segments=4),
    Case("xlnet", "XLNetConfig", xlnet(mem_len=6, reuse_len=4), left=True, seed=1,
         inputs=IDS),
    Case("deberta", "DebertaConfig", deberta(), skip=DEBERTA_CHOICE),
    Case("deberta", "DebertaConfig", deberta(
        legacy=True, position_biased_input=True, type_vocab_size=3, embedding_size=16, pos_att_type=["c2p"],
        max_relative_positions=5, num_hidden_layers=1, num_attention_heads=1, num_labels=5), segments=3, skip=DEBERTA_CHOICE),
    Case("deberta", "DebertaConfig", deberta(
        pos_att_type="p2c|p2p", num_hidden_layers=5, hidden_size=40, num_attention_heads=4, num_labels=1,
        layer_norm_eps=1e-3, hidden_act="gelu_new", pooler_hidden_act="tanh", pooler_dropout=0.2, cls_dropout=0.3),
         skip=DEBERTA_CHOICE),
    Case("deberta", "DebertaConfig", deberta(relative_attention=False, position_biased_input=True, num_hidden_layers=2),
         inputs=IDS, skip=DEBERTA_CHOICE),
    Case("deberta-v2", "DebertaV2Config", deberta_v2(conv_kernel_size=3, conv_act="gelu")),
    Case("deberta-v2", "DebertaV2Config", deberta_v2(
        conv_kernel_size=5, conv_groups=2, share_att_key=False, norm_rel_ebd="none", position_buckets=-1,
        max_relative_positions=5, legacy=True, position_biased_input=True, type_vocab_size=3, embedding_size=16,
        num_hidden_layers=1, num_attention_heads=1, num_labels=5), segments=3),
    Case("deberta-v2", "DebertaV2Config", deberta_v2(
        conv_kernel_size=1, conv_act="relu", share_att_key=False, position_buckets=8, max_relative_positions=13,
        pos_att_type=["p2c"], num_hidden_layers=5, hidden_size=40, num_attention_heads=4, num_labels=1,
        layer_norm_eps=1e-3, cls_dropout=0.3), seed=1),
    Case("deberta-v3", "DebertaV2Config", deberta_v2()),
    Case("deberta-v3", "DebertaV2Config", deberta_v2(
        share_att_key=False, pos_att_type="c2p", legacy=True, position_biased_input=True, type_vocab_size=2,
        embedding_size=40, max_relative_positions=9, num_hidden_layers=2, num_attention_heads=1, num_labels=5)),
    Case("deberta-v3", "DebertaV2Config", deberta_v2(
        pos_att_type="p2c", norm_rel_ebd="none", position_buckets=-1, num_hidden_layers=5, hidden_size=40,
        num_attention_heads=4, num_labels=1, pooler_hidden_act="gelu_new", layer_norm_eps=1e-3)),
    Case("deberta-v3", "DebertaV2Config", deberta_v2(relative_attention=False, pos_att_type=None, num_hidden_layers=2),
         inputs=IDS),
]
