"""What the parity tests need to know of each variant: HF configs of odd sizes with options on and off."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """config: HF's config class and keyword arguments. left: whether padding stands on the left."""

    variant: str
    config: str
    options: dict
    left: bool = False
    segments: int = 2
    inputs: tuple[str, ...] = ("input_ids", "attention_mask", "token_type_ids")
    skip: dict = field(default_factory=dict)      # HF class -> why it is no reference
    tolerance: float = 2e-5
    seed: int = 0                                 # another one where a relu would stand on its kink

    @property
    def name(self) -> str:
        return f"{self.variant}-{self.options.get('label', '')}"


def small(**options):
    return {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3,
            "intermediate_size": 40, "max_position_embeddings": 40, **options}


CASES = [
    Case("bert", "BertConfig", small()),
    Case("bert", "BertConfig", small(hidden_act="gelu_new", num_hidden_layers=1, num_attention_heads=1,
                                     layer_norm_eps=1e-3, num_labels=5)),
    Case("bert", "BertConfig", small(hidden_act="relu", num_hidden_layers=5, hidden_size=40, num_attention_heads=4,
                                     type_vocab_size=3, num_labels=1, classifier_dropout=0.3), segments=3, seed=1),
    Case("albert", "AlbertConfig", small(embedding_size=16)),
    Case("albert", "AlbertConfig", small(embedding_size=8, hidden_act="gelu", num_hidden_layers=5, num_hidden_groups=2,
                                         inner_group_num=2, hidden_size=40, num_attention_heads=4, type_vocab_size=3,
                                         num_labels=1), segments=3),
    Case("albert", "AlbertConfig", small(embedding_size=24, hidden_act="relu", num_hidden_groups=3,
                                         num_attention_heads=1, layer_norm_eps=1e-3, num_labels=5)),
    Case("albert", "AlbertConfig", small(embedding_size=48, num_hidden_layers=2, num_hidden_groups=5,
                                         hidden_dropout_prob=0.2)),
    Case("electra", "ElectraConfig", small(embedding_size=16)),
    Case("electra", "ElectraConfig", small(embedding_size=24, hidden_act="gelu_new", num_hidden_layers=2,
                                           num_attention_heads=1, layer_norm_eps=1e-3, num_labels=5,
                                           summary_use_proj=False, summary_activation="tanh")),
    Case("electra", "ElectraConfig", small(embedding_size=48, hidden_act="relu", num_hidden_layers=5, hidden_size=40,
                                           num_attention_heads=4, type_vocab_size=3, num_labels=1,
                                           classifier_dropout=0.3, summary_last_dropout=0.0), segments=3),
]
