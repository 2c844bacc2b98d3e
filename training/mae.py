"""Masked autoencoder around the package's vision transformer (He et al. 2022)."""

from __future__ import annotations

from itertools import pairwise

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


# Widths in pixels of the neighbourhoods that descriptors are of: a patch, a nucleus, a cell.
WINDOWS = (4.0, 8.0, 16.0)
BANDS = (1.0, 2.0, 4.0)
# Layer whose tokens have to tell the descriptors by a linear map: the one that spreads, the default
# for cells, are read from.
DESCRIBED_LAYER = 2
N_DESCRIPTORS = len(WINDOWS) * (6 + len(BANDS) + 4)


def _filtered(
    images: Tensor, rows: Tensor, columns: Tensor, first: int = 0, stride: int = 1
) -> Tensor:
    """Correlation with a separable kernel of odd width, reflected at the borders.

    The kernel's middle lies on pixel `first`, and on every `stride`-th after it.
    """
    down, across = (_matrix(k, images.shape[-1], first, stride) for k in (rows, columns))
    return down @ images @ across.T


def _matrix(kernel: Tensor, size: int, first: int, stride: int) -> Tensor:
    """The correlation along one axis as a matrix: far quicker than a convolution of one channel."""
    half = len(kernel) // 2
    pixels = nn.functional.pad(torch.eye(size)[:, None], (half, half), mode="reflect")
    return nn.functional.conv1d(pixels[..., first:], kernel.reshape(1, 1, -1), stride=stride)[
        :, 0
    ].T


def _powers(sigma: float, centre: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """A Gaussian times 1, u and u**2 - 1, where u is the distance in widths."""
    half = min(round(3 * sigma), 31)
    u = (torch.arange(-half, half + 1, dtype=torch.float32) - centre) / sigma
    g = torch.exp(-u.square() / 2)
    g = g / g.sum()
    return g, u * g, (u.square() - 1) * g


def described(images: Tensor, patch: int) -> Tensor:
    """Local shape and texture around each patch: (n, patches, `N_DESCRIPTORS`), standardised.

    For every window: six Gaussian moments of the image over its spread there (a local jet: level,
    slope and bend tell size and elongation), log energy of three bands, direction and coherence of
    the gradient, and the skewness of a fine band (spots or holes).
    """
    with torch.no_grad():
        x = images[:, :1].float()
        smooth = [x] + [_filtered(x, _powers(s)[0], _powers(s)[0]) for s in BANDS]
        bands = [a - b for a, b in pairwise(smooth)]
        g, slope, _ = _powers(1.0)
        dy, dx = _filtered(x, slope, g), _filtered(x, g, slope)
        parts = []
        for sigma in WINDOWS:
            # The middle of a patch lies half a pixel before a pixel.
            g0, g1, g2 = _powers(sigma / 2, -0.5)

            def over(values: Tensor, rows: Tensor = g0, columns: Tensor = g0) -> Tensor:
                # At half the resolution, which no window is too narrow for.
                halved = nn.functional.avg_pool2d(values, 2)
                return _filtered(halved, rows, columns, patch // 4, patch // 2)

            mean = over(x)
            spread = (over(x.square()) - mean.square()).clamp_min(1e-3).sqrt()
            moments = ((g1, g0), (g0, g1), (g2, g0), (g1, g1), (g0, g2))
            parts += [mean, *(over(x, rows, columns) / spread for rows, columns in moments)]
            energies = [over(band.square()) for band in bands]
            parts += [(energy + 1e-4).log() for energy in energies]
            total = over(dy.square() + dx.square()) + 1e-4
            along, across = over(dy.square() - dx.square()) / total, 2 * over(dy * dx) / total
            parts += [along, across, (along.square() + across.square()).sqrt()]
            parts.append(over(bands[1].pow(3)) / (energies[1] + 1e-3).pow(1.5))
        values = torch.cat(parts, 1).flatten(2).transpose(1, 2)
        mean, std = values.mean((0, 1)), values.std((0, 1))
        return ((values - mean) / (std + 1e-6)).clamp(-4, 4)


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
        self.descriptor_norm = nn.LayerNorm(config.dim)
        self.descriptor_head = nn.Linear(config.dim, N_DESCRIPTORS)
        self.hidden_descriptor_head = nn.Linear(decoder_dim, N_DESCRIPTORS)
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
        descriptors: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error of the normalised hidden patches; `keep` patches are visible.

        That of the features of hidden patches is added, where features of the first images are
        given; and that of descriptors, of hidden patches behind the decoder and of all patches
        straight from the tokens of `DESCRIBED_LAYER`, of which none is hidden: as they are read.
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
        if descriptors is not None:
            size = descriptors.shape[-1]
            whole = self.encoder.prepend_class(tokens)
            for block in self.encoder.blocks[:DESCRIBED_LAYER]:
                whole = block(whole)
            told = self.descriptor_head(self.descriptor_norm(whole[:, 1:])).float()
            guessed = self.hidden_descriptor_head(x).float()
            unseen = descriptors.gather(1, masked[..., None].expand(-1, -1, size))
            loss = loss + (told - descriptors).square().mean() + (guessed - unseen).square().mean()
        if features is None:
            return loss
        some = masked[: len(features), :, None].expand(-1, -1, features.shape[-1])
        hidden = self.feature_head(x[: len(features)]).float()
        return loss + (hidden - features.gather(1, some)).square().mean()
