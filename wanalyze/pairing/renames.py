"""Names that differ between checkpoints of one family: on disk, and in memory of transformers 5.

Where not said otherwise the rows are those of transformers' conversion_mapping.py, version 5.23, in its order: a
row may build on what the row before it made. A name that no row applies to is its own.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_ANY: frozenset[str] = frozenset()
_VIT = frozenset({"vit", "audio-spectrogram-transformer", "beit", "deit", "ijepa", "vit_mae", "vit_msn", "vivit"})
_DINO = frozenset({"dinov2", "dinov2_with_registers", "lw_detr", "lw_detr_vit"})
_DETR = frozenset({"detr", "maskformer", "conditional_detr", "deformable_detr", "rt_detr", "rt_detr_v2", "d_fine"})
_GRANITE = frozenset({"granitemoe", "granitemoeshared", "granitemoehybrid"})
_MIXTRAL = frozenset({"mixtral", "minimax", "minimax_m2", "phimoe", "kimi_linear"})
_NOMIC = frozenset({"nomic_bert", "jina_embeddings_v3"})
_INTERNLM = frozenset({"internlm2"})


class Rename(NamedTuple):
    """For models of these types, or of any where none is given: a pattern on disk, what it becomes in memory."""

    types: frozenset[str]
    on_disk: str
    in_memory: str


RENAMES: tuple[Rename, ...] = (
    # What cannot mean anything else, whatever the model.
    Rename(_ANY, r"LayerNorm\.gamma$", "LayerNorm.weight"),
    Rename(_ANY, r"LayerNorm\.beta$", "LayerNorm.bias"),
    Rename(_ANY, r"\.weight_g$", ".parametrizations.weight.original0"),
    Rename(_ANY, r"\.weight_v$", ".parametrizations.weight.original1"),
    Rename(_ANY, r"^embed_out\.", "lm_head."),
    Rename(_ANY, r"\.block_sparse_moe\.(?=experts\.\d|gate\.)", ".mlp."),
    Rename(_ANY, r"\.experts\.(\d+)\.w1\.", r".experts.\1.gate_proj."),
    Rename(_ANY, r"\.experts\.(\d+)\.w3\.", r".experts.\1.up_proj."),
    Rename(_ANY, r"\.experts\.(\d+)\.w2\.", r".experts.\1.down_proj."),
    Rename(_ANY, r"\.switch_mlp\.", ".experts."),  # MLX
    # Mixtures of experts.
    Rename(_MIXTRAL, r"\.block_sparse_moe\.", ".mlp."),
    Rename(frozenset({"phimoe"}), r"\.gate\.weight$", ".router.weight"),
    Rename(_GRANITE, r"block_sparse_moe\.input_linear\.weight", "block_sparse_moe.experts.gate_up_proj"),
    Rename(_GRANITE, r"block_sparse_moe\.output_linear\.weight", "block_sparse_moe.experts.down_proj"),
    Rename(_GRANITE, r"block_sparse_moe\.router\.layer\.weight", "block_sparse_moe.router.weight"),
    Rename(frozenset({"aria", "aria_text"}), r"mlp\.experts\.fc1\.weight", "mlp.experts.gate_up_proj"),
    Rename(frozenset({"aria", "aria_text"}), r"mlp\.experts\.fc2\.weight", "mlp.experts.down_proj"),
    Rename(frozenset({"ernie4_5_moe"}), r"mlp\.moe_statics\.(?=e_score)", "mlp.gate.moe_statics."),
    Rename(frozenset({"exaone_moe"}), r"mlp\.e_score_correction_bias", "mlp.gate.e_score_correction_bias"),
    Rename(frozenset({"hy_v3"}), r"mlp\.router\.gate\.weight", "mlp.gate.weight"),
    Rename(frozenset({"hy_v3"}), r"mlp\.expert_bias", "mlp.e_score_correction_bias"),
    Rename(frozenset({"hy_v3"}), r"mlp\.shared_mlp\.", "mlp.shared_experts."),
    Rename(frozenset({"laguna"}), r"mlp\.experts\.e_score_correction_bias", "mlp.gate.e_score_correction_bias"),
    Rename(frozenset({"laguna"}), r"mlp\.shared_expert\.", "mlp.shared_experts."),
    Rename(frozenset({"mimo_v2_flash"}), r"self_attn\.attention_sink_bias", "self_attn.sinks"),
    Rename(frozenset({"flint"}), r"self_attn\.softmax_offset", "self_attn.sinks"),
    # Language models.
    Rename(frozenset({"olmo_hybrid"}), r"attention_layer_norm", "input_layernorm"),
    Rename(frozenset({"olmo_hybrid"}), r"feedforward_layer_norm", "post_attention_layernorm"),
    Rename(_NOMIC, r"encoder\.layers", "layers"),
    Rename(_NOMIC, r"emb_ln", "embeddings.LayerNorm"),
    Rename(_NOMIC, r"(?:attn|mixer)\.(?=out_proj|Wqkv)", "self_attn."),
    Rename(_NOMIC, r"self_attn\.out_proj", "self_attn.o_proj"),
    Rename(_NOMIC, r"norm1\.", "post_attention_layernorm."),
    Rename(_NOMIC, r"norm2\.", "post_mlp_layernorm."),
    Rename(frozenset({"nomic_bert"}), r"fc11", "up_proj"),
    Rename(frozenset({"nomic_bert"}), r"fc12", "gate_proj"),
    Rename(frozenset({"nomic_bert"}), r"fc2", "down_proj"),
    Rename(frozenset({"gte"}), r"^new\.", ""),
    Rename(frozenset({"gte"}), r"encoder\.layer", "layers"),
    Rename(frozenset({"gte"}), r"\.attention\.(?=o_proj|qkv_proj)", ".self_attn."),
    Rename(frozenset({"gte"}), r"attn_ln", "post_attention_layernorm"),
    Rename(frozenset({"gte"}), r"mlp_ln", "post_mlp_layernorm"),
    Rename(frozenset({"gte"}), r"lm_head\.norm", "lm_head.layer_norm"),
    # InternLM2 as its own tool writes it for Llama (convert2llama.py), not in transformers.
    Rename(_INTERNLM, r"\.attention\.", ".self_attn."),
    Rename(_INTERNLM, r"\.self_attn\.wo\.", ".self_attn.o_proj."),
    Rename(_INTERNLM, r"\.feed_forward\.w1\.", ".mlp.gate_proj."),
    Rename(_INTERNLM, r"\.feed_forward\.w3\.", ".mlp.up_proj."),
    Rename(_INTERNLM, r"\.feed_forward\.w2\.", ".mlp.down_proj."),
    Rename(_INTERNLM, r"\.attention_norm\.", ".input_layernorm."),
    Rename(_INTERNLM, r"\.ffn_norm\.", ".post_attention_layernorm."),
    Rename(_INTERNLM, r"tok_embeddings\.", "embed_tokens."),
    Rename(_INTERNLM, r"^output\.", "lm_head."),
    # Models that see and hear. Most renames there are of prefixes, which are stripped for all.
    Rename(frozenset({"emu3"}), r"^text_model\.lm_head", "lm_head"),
    Rename(frozenset({"emu3"}), r"^(?:model\.)?text_model\.(?:model\.)?", "text_model."),
    Rename(frozenset({"paddleocr_vl"}), r"^mlp_AR", "model.projector"),
    Rename(frozenset({"qwen2_5_omni", "qwen3_omni_moe"}), r"^thinker\.", ""),
    Rename(frozenset({"colqwen2", "colpali"}), r"^vlm\.model\.", "vlm."),
    Rename(frozenset({"clip_vision_model", "siglip_vision_model", "siglip2_vision_model"}), r"^vision_model\.", ""),
    Rename(frozenset({"clip_text_model", "siglip_text_model", "siglip2_text_model"}), r"^text_model\.", ""),
    Rename(_VIT, r"encoder\.layer\.", "layers."),
    Rename(_VIT, r"attention\.query", "q_proj"),
    Rename(_VIT, r"attention\.key", "k_proj"),
    Rename(_VIT, r"attention\.value", "v_proj"),
    Rename(_VIT, r"attention\.output\.dense", "attention.o_proj"),
    Rename(_VIT, r"intermediate\.dense", "mlp.fc1"),
    Rename(_VIT, r"output\.dense", "mlp.fc2"),
    Rename(_DINO, r"attention\.attention\.query", "attention.q_proj"),
    Rename(_DINO, r"attention\.attention\.key", "attention.k_proj"),
    Rename(_DINO, r"attention\.attention\.value", "attention.v_proj"),
    Rename(_DINO, r"attention\.output(?:\.dense)?\.", "attention.o_proj."),
    Rename(_DINO, r"mlp\.weights_out", "mlp.down_proj"),
    Rename(frozenset({"swin", "segformer"}), r"attention\.self\.query", "attention.q_proj"),
    Rename(frozenset({"swin", "segformer"}), r"attention\.self\.key", "attention.k_proj"),
    Rename(frozenset({"swin", "segformer"}), r"attention\.self\.value", "attention.v_proj"),
    Rename(frozenset({"swin", "segformer"}), r"attention\.output\.dense", "attention.o_proj"),
    Rename(frozenset({"swin"}), r"attention\.self\.(?=relative)", "attention.relative_position_bias."),
    Rename(frozenset({"swin"}), r"intermediate\.dense", "mlp.fc1"),
    Rename(frozenset({"swin"}), r"output\.dense", "mlp.fc2"),
    Rename(frozenset({"segformer"}), r"encoder\.patch_embeddings\.(\d+)\.", r"stages.\1.patch_embeddings."),
    Rename(frozenset({"segformer"}), r"encoder\.block\.(\d+)\.", r"stages.\1.blocks."),
    Rename(frozenset({"segformer"}), r"encoder\.layer_norm\.(\d+)", r"stages.\1.layer_norm"),
    Rename(frozenset({"segformer"}), r"attention\.self\.sr", "attention.sequence_reduction.sequence_reduction"),
    Rename(frozenset({"segformer"}), r"attention\.self\.layer_norm", "attention.sequence_reduction.layer_norm"),
    Rename(frozenset({"segformer"}), r"mlp\.dense([12])", r"mlp.fc\1"),
    Rename(frozenset({"segformer"}), r"layer_norm_1", "layernorm_before"),
    Rename(frozenset({"segformer"}), r"layer_norm_2", "layernorm_after"),
    Rename(frozenset({"segformer"}), r"decode_head\.linear_c", "decode_head.linear_projections"),
    Rename(_DETR, r"backbone\.conv_encoder", "backbone"),
    Rename(_DETR, r"(?<=attn\.)out_proj", "o_proj"),
    Rename(_DETR, r"layers\.(\d+)\.fc([12])", r"layers.\1.mlp.fc\2"),
)


class Renamer:
    """The rows for models of `types`, looked for together first: few names have any."""

    def __init__(self, types: frozenset[str]) -> None:
        rows = [row for row in RENAMES if not row.types or row.types & types]
        self._rows = [(re.compile(row.on_disk), row.in_memory) for row in rows]
        self._any = re.compile("|".join(f"(?:{_without_groups(row.on_disk)})" for row in rows))

    def __call__(self, name: str) -> str:
        """The name in memory of a tensor that may have its name on disk.

        >>> Renamer(frozenset({"mixtral"}))("model.layers.0.block_sparse_moe.experts.3.w1.weight")
        'model.layers.0.mlp.experts.3.gate_proj.weight'
        """
        if self._any.search(name):
            for on_disk, in_memory in self._rows:
                name = on_disk.sub(in_memory, name)
        return name


def _without_groups(pattern: str) -> str:
    return re.sub(r"(?<!\\)\((?!\?)", "(?:", pattern)
