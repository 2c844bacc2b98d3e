"""Masked autoencoder around the package's vision transformer (He et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_microdl.models.vit.blocks import Block
from napari_microdl.models.vit.config import VitConfig
from napari_microdl.models.vit.network import VisionTransformer
from napari_microdl.models.vit.positions import sincos_positions

# Added to a patch's variance before it is normalised: about the camera noise of a scaled image, so
# that empty background does not turn into a target of pure noise.
TARGET_VARIANCE_FLOOR = 1e-3


# Layers of the teacher whose tokens are predicted: early ones too, so that tokens stay local.
TARGET_LAYERS = (2, 4, 6, 8)


def teacher_features(teacher: VisionTransformer, images: Tensor) -> Tensor:
    """What is to be predicted of each patch: (n, patches, dim), mean over layers, each normalised.

    As in data2vec (Baevski et al. 2022); the teacher is the running average of the encoder.
    """
    with torch.no_grad():
        x = teacher.prepend_class(teacher.tokenize(images))
        total = torch.zeros((), dtype=torch.float32)
        for number, block in enumerate(teacher.blocks, 1):
            x = block(x)
            if number in TARGET_LAYERS:
                total = total + nn.functional.layer_norm(x[:, 1:].float(), x.shape[-1:])
        return nn.functional.layer_norm(total, total.shape[-1:])


class MaskedAutoencoder(nn.Module):
    """Encoder of the package plus a small decoder that is thrown away after training."""

    def __init__(self, config: VitConfig, decoder_dim: int = 128, decoder_depth: int = 1) -> None:
        super().__init__()
        self.encoder = VisionTransformer(config)
        self.encoder_norm = nn.LayerNorm(config.dim)
        self.decoder_embed = nn.Linear(config.dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        decoder = VitConfig(decoder_dim, decoder_depth, n_heads=4, patch_size=config.patch_size)
        self.decoder = nn.ModuleList(Block(decoder) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(decoder_dim)
        self.head = nn.Linear(decoder_dim, config.in_channels * config.patch_size**2)
        self.feature_head = nn.Linear(decoder_dim, config.dim)
        nn.init.normal_(self.mask_token, std=0.02)

    def patchify(self, images: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, patches, c * p * p)."""
        p = self.encoder.config.patch_size
        return torch.nn.functional.unfold(images, p, stride=p).transpose(1, 2)

    def forward(
        self,
        images: Tensor,
        keep: int,
        generator: torch.Generator,
        features: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error of the normalised hidden patches; `keep` patches are visible.

        That of the features of hidden patches is added, where features of the first images are
        given.
        """
        tokens = self.encoder.tokenize(images)
        n, length, dim = tokens.shape
        order = torch.rand(n, length, generator=generator).argsort(1)
        back = order.argsort(1)
        visible = order[:, :keep]
        x = tokens.gather(1, visible[..., None].expand(-1, -1, dim))
        x = self.encoder.prepend_class(x)
        for block in self.encoder.blocks:
            x = block(x)
        x = self.decoder_embed(self.encoder_norm(x)[:, 1:])

        hidden = self.mask_token.to(x).expand(n, length - keep, -1)
        x = torch.cat([x, hidden], 1).gather(1, back[..., None].expand(-1, -1, x.shape[-1]))
        p = self.encoder.config.patch_size
        grid_h, grid_w = images.shape[-2] // p, images.shape[-1] // p
        x = x + sincos_positions(grid_h, grid_w, x.shape[-1]).to(x)
        for block in self.decoder:
            x = block(x)
        # Only hidden patches are predicted, so only they need the head.
        masked = order[:, keep:]
        x = x.gather(1, masked[..., None].expand(-1, -1, x.shape[-1]))
        x = self.decoder_norm(x)
        predicted = self.head(x).float()
        target = self.patchify(images).float()
        target = target.gather(1, masked[..., None].expand(-1, -1, target.shape[-1]))
        mean = target.mean(-1, keepdim=True)
        variance = target.var(-1, keepdim=True)
        target = (target - mean) / (variance + TARGET_VARIANCE_FLOOR).sqrt()
        loss = (predicted - target).square().mean()
        if features is None:
            return loss
        some = masked[: len(features), :, None].expand(-1, -1, features.shape[-1])
        hidden = self.feature_head(x[: len(features)]).float()
        return loss + (hidden - features.gather(1, some)).square().mean()
