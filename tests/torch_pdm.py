"""U-ViT and both PDMs restated in plain PyTorch, with their authors' parameter names."""

import math

from torch_reference import import_torch

torch = import_torch()
nn, functional = torch.nn, torch.nn.functional


class Attention(nn.Module):
    def __init__(self, size, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(size, 3 * size, bias=False)
        self.proj = nn.Linear(size, size)

    def forward(self, x):
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, x):
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, size, heads, skip=False):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(size), Attention(size, heads)
        self.norm2, self.mlp = nn.LayerNorm(size), MLP(size)
        if skip:
            self.skip_linear = nn.Linear(2 * size, size)

    def forward(self, x, skip=None):
        if skip is not None:
            x = self.skip_linear(torch.cat([x, skip], dim=-1))
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, channels, patch, size):
        super().__init__()
        self.proj = nn.Conv2d(channels, size, patch, stride=patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class ZeroConv(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.conv = nn.Conv1d(size, size, 1)

    def forward(self, tokens):
        return self.conv(tokens.transpose(1, 2)).transpose(1, 2)


def sinusoid(t, size):
    frequencies = torch.exp(-math.log(10000) * torch.arange(size // 2) / (size // 2))
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)[:, None]


def unpatchify(tokens, channels):
    side, patch = math.isqrt(tokens.shape[1]), math.isqrt(tokens.shape[2] // channels)
    grid = tokens.unflatten(1, (side, side)).unflatten(3, (patch, patch, channels))
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def ids_to_bits(ids):
    """(B, H, W) codes to (B, 8, H, W) of -1 and 1, the most significant bit first."""
    places = torch.arange(7, -1, -1)
    bits = (torch.tensor(ids).int()[:, None] >> places[:, None, None]) & 1
    return bits.float() * 2 - 1


def bits_to_ids(values):
    """The way back: a bit is 1 where its value is positive."""
    weights = 2 ** torch.arange(7, -1, -1)
    return ((values > 0).int() * weights[:, None, None]).sum(1).numpy()


class PDM(nn.Module):
    """kind: 'uvit', 'one_stream' or 'two_stream'; channels first."""

    def __init__(self, kind, size=512, depth=12, heads=8, factor=2, given_map=False, text=768):
        super().__init__()
        self.kind, self.size, self.half, self.given_map = kind, size, depth // 2, given_map
        patch = 2 * factor
        self.patch_embed = PatchEmbed(4, 2, size)
        self.context_embed = nn.Linear(text, size)
        tokens = 590 if kind == 'one_stream' else 334
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, size))

        def stack(suffix):
            blocks = [Block(size, heads) for _ in range(self.half)]
            setattr(self, f'in_blocks{suffix}', nn.ModuleList(blocks))
            setattr(self, f'mid_block{suffix}', Block(size, heads))
            blocks = [Block(size, heads, skip=True) for _ in range(self.half)]
            setattr(self, f'out_blocks{suffix}', nn.ModuleList(blocks))

        stack('')
        self.norm = nn.LayerNorm(size)
        self.decoder_pred = nn.Linear(size, 16)
        self.final_layer = nn.Conv2d(4, 4, 3, padding=1)
        if kind == 'uvit':
            return
        self.mask_embed = PatchEmbed(8, patch, size)
        self.mask_embed_0 = PatchEmbed(8, patch, size)
        self.decoder_pred_mask = nn.Linear(size, 8 * patch**2)
        self.final_layer_mask = nn.Conv2d(8, 8, 3, padding=1)
        if kind == 'two_stream':
            self.pos_embed_mask = nn.Parameter(torch.zeros(1, 256, size))
            stack('_mask')
            self.zero_convs = nn.ModuleList([ZeroConv(size) for _ in range(2 * depth + 2)])

    def levels(self, suffix):
        return [
            *getattr(self, f'in_blocks{suffix}'),
            getattr(self, f'mid_block{suffix}'),
            *getattr(self, f'out_blocks{suffix}'),
        ]

    def forward(self, x, mask, text, t):
        image = [sinusoid(t, self.size), self.context_embed(text), self.patch_embed(x)]
        x = torch.cat(image, dim=1)
        if self.kind == 'two_stream':
            x, m = self.two_streams(x + self.pos_embed, self.mask_embed(mask) + self.pos_embed_mask)
            x = self.norm(x)[:, 78:]
        else:
            if self.kind == 'one_stream':
                x = torch.cat([x, self.mask_embed(mask)], dim=1)
            x, skips = x + self.pos_embed, []
            for level, block in enumerate(self.levels('')):
                x = block(x, skips.pop()) if level > self.half else block(x)
                if level < self.half:
                    skips.append(x)
            x, m = self.norm(x)[:, 78:334], self.norm(x)[:, 334:]
        if self.given_map:
            x = x + m
        noise = self.final_layer(unpatchify(self.decoder_pred(x), 4))
        if self.kind == 'uvit' or self.given_map:
            return noise, None
        return noise, self.final_layer_mask(unpatchify(self.decoder_pred_mask(m), 8)).tanh()

    def two_streams(self, x, m):
        skips = []
        streams = zip(self.levels(''), self.levels('_mask'), strict=True)
        for level, (block, both) in enumerate(streams):
            skip_x, skip_z = skips.pop() if level > self.half else (None, None)
            z = both(torch.cat([x, m], dim=1), skip_z)
            x = block(x, skip_x) + self.zero_convs[2 * level + 1](z[:, :334])
            m = z[:, 334:]
            if level < self.half:
                skips.append((x, z))
        return x, m


def random_pdm(kind, seed=0, **sizes):
    """With weights at which every part matters."""
    generator = torch.Generator().manual_seed(seed)
    model = PDM(kind, **sizes)
    with torch.no_grad():
        for name, value in model.named_parameters():
            deviation = 0.5 / value[0].numel() ** 0.5 if value.ndim > 1 else 0.2
            value.copy_(torch.randn(value.shape, generator=generator) * deviation)
            if 'norm' in name and name.endswith('weight'):
                value += 1
            if 'pos_embed' in name:
                value *= value[0].numel() ** 0.5
    return model.eval()
