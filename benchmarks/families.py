"""The networks of benchmarks/strangers.py: one or two small ones of each family of image classifiers.

These families are left out: in timm, those without classes (deepseek_vit, gemma4_vit, hieradet_sam2, mobilenetv5,
qwen3_vit, vision_transformer_sam); in transformers, DiNAT, which needs another package, ShieldGemma 2, which also takes
text, and the wrapper of timm's networks.
"""

from __future__ import annotations

from typing import Any

TIMM = (
    "beit_base_patch16_224", "haloregnetz_b", "test_byobnet", "mobileone_s0", "cait_xxs24_224", "coat_tiny",
    "convit_tiny", "convmixer_768_32", "convnext_atto", "cpubone_nano", "crossvit_tiny_240", "csatv2",
    "cs3darknet_focus_s", "cspnext_tiny", "davit_tiny", "deit_tiny_patch16_224", "densenet121", "dla46x_c", "dpn68",
    "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0", "tinynet_e", "mixnet_s", "efficientvim_m1",
    "efficientvit_b0", "efficientvit_m0", "eva02_tiny_patch14_336", "fasternet_t0", "fastvit_t8", "focalnet_tiny_srf",
    "gcvit_xxtiny", "ghostnet_100", "hardcorenas_b", "hgnetv2_b0", "hiera_tiny_224", "hrnet_w18_small", "iformer_t",
    "inception_next_atto", "inception_resnet_v2", "inception_v3", "inception_v4", "lcnetv2_small", "levit_128s",
    "lowformer_b0", "mambaout_femto", "maxvit_rmlp_pico_rw_256", "coatnet_nano_rw_224", "poolformerv2_s12",
    "caformer_s18", "resmlp_12_224", "mixer_b16_224", "mobilenetv3_small_050", "mobilevit_xxs", "mvitv2_tiny",
    "naflexvit_base_patch16_gap", "nasnetalarge", "nest_tiny_jx", "nextvit_small", "test_nfnet", "pit_ti_224",
    "pnasnet5large", "pvt_v2_b0", "rdnet_tiny", "regnetx_002", "repghostnet_050", "repvit_m1", "res2next50",
    "resnest14d", "resnet10t", "seresnext26d_32x4d", "resnetv2_18", "rexnet_100", "selecsls60", "legacy_seresnet18",
    "sequencer2d_s", "shvit_s1", "skresnet18", "starnet_s1", "swiftformer_xs", "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window16_256", "swinv2_cr_tiny_ns_224", "tiny_vit_5m_224", "tnt_s_legacy_patch16_224", "tresnet_m",
    "twins_svt_small", "twins_pcpvt_small", "vgg11", "visformer_tiny", "vit_tiny_patch16_224", "vit_tiny_r_s16_p8_224",
    "vit_relpos_small_patch16_224", "vitamin_small_224", "volo_d1_224", "ese_vovnet19b_dw", "legacy_xception",
    "xception41", "xcit_nano_12_p16_224",
)  # fmt: skip
TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18",
    "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t",
    "vgg11", "vit_b_16", "wide_resnet50_2",
)  # fmt: skip
SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 96}
TRANSFORMERS: dict[str, dict[str, Any]] = {  # by the name of the classes: sizes other than the default
    "Beit": SMALL,
    "Bit": {"depths": [1, 1, 1, 1]},
    "CLIP": {"vision_config": SMALL},
    "ConvNext": {"hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 1, 1]},
    "ConvNextV2": {"hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 1, 1]},
    "Cvt": {},
    "Data2VecVision": SMALL,
    "DeiT": SMALL,
    "Dinov2": SMALL,
    "Dinov2WithRegisters": SMALL,
    "DonutSwin": {"embed_dim": 24, "depths": [1, 1, 2, 1]},
    "EfficientNet": {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "image_size": 224},
    "FocalNet": {"embed_dim": 24, "depths": [1, 1, 2, 1]},
    "HGNetV2": {"stage_numb_of_layers": [2, 2, 2, 2]},
    "Hiera": {"embed_dim": 24, "depths": [1, 2, 3, 1]},
    "IJepa": SMALL,
    "ImageGPT": {"n_embd": 48, "n_layer": 3, "n_head": 3},
    "Levit": {},
    "MetaClip2": {"vision_config": SMALL},
    "MobileNetV1": {},
    "MobileNetV2": {},
    "MobileViT": {},
    "MobileViTV2": {},
    "Perceiver": {"num_latents": 32, "d_latents": 64, "num_self_attends_per_block": 2},
    "PoolFormer": {},
    "PPLCNet": {},
    "Pvt": {},
    "PvtV2": {},
    "RegNet": {"hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 2, 1], "groups_width": 16},
    "ResNet": {"hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 1, 1]},
    "Segformer": {},
    "Siglip": {"vision_config": SMALL},
    "Siglip2": {"vision_config": SMALL},
    "SwiftFormer": {},
    "Swin": {"embed_dim": 24, "depths": [1, 1, 2, 1]},
    "Swinv2": {"embed_dim": 24, "depths": [1, 1, 2, 1], "image_size": 256},
    "TextNet": {},
    "ViT": SMALL,
    "ViTMSN": SMALL,
}
PROCESSORS = {  # of families whose own has another name
    "ConvNextV2": "ConvNext", "Cvt": "ConvNext", "Data2VecVision": "Beit", "Dinov2": "Bit",
    "Dinov2WithRegisters": "Bit", "DonutSwin": "ViT", "FocalNet": "Bit", "HGNetV2": "ConvNext", "Hiera": "Bit",
    "IJepa": "ViT", "MetaClip2": "CLIP", "MobileViTV2": "MobileViT", "PvtV2": "Pvt", "RegNet": "ConvNext",
    "ResNet": "ConvNext", "SwiftFormer": "ViT", "Swin": "ViT", "Swinv2": "ViT", "ViTMSN": "ViT",
}  # fmt: skip
