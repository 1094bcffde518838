"""The smallest parts of a text-to-image pipeline, for tests in several rooms: 64x64 pictures, 4x16x16 latents."""

VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [4, 4, 4],
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "sample_size": 64,
    "mid_block_add_attention": False,
}
UNET = {
    "sample_size": 16,
    "block_out_channels": [8, 8],
    "down_block_types": ["CrossAttnDownBlock2D"] * 2,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2,
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TRANSFORMER = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "patch_size": 2,
    "num_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 4,
    "cross_attention_dim": 8,
    "caption_channels": 16,
}
