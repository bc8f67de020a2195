"""RNK in PyTorch, the source's layers and losses, for `worker.py`; imports no project.

    bytes -> mean of 32 -> Mamba -> planner, smoothed -> refiner -> GRU over bytes -> next byte

Written from the equations of zabwie/RNM (commit 2291566). It keeps what the source does: the plan
of a chunk has read it, the prompt's context is one attention over its bytes, the GRU runs over the
whole row, and the total has seven losses. Left out is dropout, which ours lacks, too; the scan over
the eight chunks is a loop, which is faster than a parallel scan at that length.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

CHUNK, INTENTS, MATH, SMOOTHING, TEMPERATURE = 32, 7, 6, 0.8, 0.1


def mlp(inputs, hidden, outputs):
    """Two layers with GELU."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


class MambaLayer(nn.Module):
    """x + Mamba(RMSNorm x), Mamba-1."""

    def __init__(self, width, states=16, taps=4):
        super().__init__()
        inner, rank = 2 * width, math.ceil(width / 16)
        self.sizes = rank, states, states
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.enter = nn.Linear(width, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, taps, groups=inner, padding=taps - 1)
        self.select = nn.Linear(inner, sum(self.sizes), bias=False)
        self.step = nn.Linear(rank, inner)
        self.rates = nn.Parameter(torch.arange(1.0, states + 1.0).log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        self.leave = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        """Map x (B, n, d) to (B, n, d)."""
        u, gate = self.enter(self.norm(x)).chunk(2, -1)
        u = F.silu(self.conv(u.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        step, b, c = self.select(u).split(self.sizes, -1)
        step = F.softplus(self.step(step))
        decay = torch.exp(step[..., None] * -self.rates.exp())
        write = (step * u)[..., None] * b[:, :, None]
        h, ys = torch.zeros_like(write[:, 0]), []
        for t in range(x.shape[1]):
            h = decay[:, t] * h + write[:, t]
            ys.append((h @ c[:, t, :, None].to(h.dtype))[..., 0])
        y = torch.stack(ys, 1) + self.skip * u
        return x + self.leave(y * F.silu(gate))


class Planner(nn.Module):
    """p <- W LN(layers(p)) + 0.1 x, five times."""

    def __init__(self, width, hidden, layers=3, steps=5):
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), mlp(width, hidden, width)) for _ in range(layers)
        )
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))

    def forward(self, x):
        """Plan from x (B, n, d) -> (B, n, d)."""
        p = x
        for _ in range(self.steps):
            for layer in self.layers:
                p = p + layer(p)
            p = self.leave(p) + 0.1 * x
        return p


class Refiner(nn.Module):
    """Gated correction of a plan by four learned constraints."""

    def __init__(self, width, hidden, constraints=4):
        super().__init__()
        self.constraints = nn.Parameter(0.02 * torch.randn(constraints, width))
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.correct = nn.Sequential(nn.LayerNorm(width), mlp(width, hidden, width))
        self.gate = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, plan):
        """Refine plans (B, n, d) -> (B, n, d)."""
        memory = self.constraints.expand(len(plan), -1, -1)
        refined = self.correct(plan + self.attention(plan, memory, memory, need_weights=False)[0])
        gate = torch.sigmoid(self.gate(torch.cat([plan, refined], -1)))
        return self.norm(gate * refined + (1.0 - gate) * plan)


class Decoder(nn.Module):
    """GRU over bytes; reads each byte, its chunk's plan and the prompt's context."""

    def __init__(self, vocab, width, layers=2):
        super().__init__()
        self.shape = layers, width
        self.embed = nn.Embedding(vocab, width)
        self.plan = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.memory = nn.Linear(width, width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.start = nn.Linear(width, layers * width)
        self.gru = nn.GRU(3 * width, width, layers, batch_first=True)
        self.head = nn.Sequential(nn.LayerNorm(width), mlp(width, width, vocab))

    def forward(self, plan, tokens, prompt):
        """Read plans (B, n, d), bytes (B, T), embedded prompts (B, P, d) -> logits (B, T, V)."""
        layers, width = self.shape
        memory, query = self.memory(prompt), self.query(plan.mean(1, keepdim=True))
        context = self.attention(query, memory, memory, need_weights=False)[0]
        start = self.start(context[:, 0]).view(-1, layers, width).transpose(0, 1).contiguous()
        parts = self.plan(plan).repeat_interleave(CHUNK, 1), context.expand(-1, tokens.shape[1], -1)
        x = torch.cat([self.embed(tokens), *parts], -1)
        return self.head(self.gru(x, start.to(x.dtype))[0])


class RNK(nn.Module):
    """The system; `forward` returns the loss of a batch."""

    def __init__(self, vocab=256, width=256, layers=3):
        super().__init__()
        hidden = 2 * width
        self.embed = nn.Embedding(vocab, width)
        self.mamba = nn.Sequential(*(MambaLayer(width) for _ in range(layers)))
        self.planner, self.refiner = Planner(width, hidden), Refiner(width, hidden)
        self.decoder = Decoder(vocab, width)
        self.intent, self.intents = nn.Linear(width, INTENTS), nn.Embedding(INTENTS, width)
        self.answerable, self.stop = nn.Linear(width, 1), nn.Linear(width, 1)
        self.latent, self.relevance = mlp(width, hidden, width), mlp(2 * width, hidden, 1)

    def forward(self, tokens, weights, intent, answerable, prompt):
        """Return the loss of tokens int (B, T + 1); `prompt`: bytes of the longest prompt."""
        rows, inputs = torch.arange(len(tokens)), tokens[:, :-1]
        embedded = self._embedded(inputs)
        m = self.mamba(embedded.unflatten(1, (-1, CHUNK)).mean(2))
        context = m[:, min(prompt, m.shape[1] - 1)]  # a byte's index: the source's own mistake
        known = self.intent(context)
        vector = self.intents(intent) * torch.where(intent == MATH, 3.0, 1.0)[:, None]
        m = m + vector[:, None]
        plans, smoothed = self.planner(m), []
        for t in range(plans.shape[1]):
            last = smoothed[-1] if t else plans[:, 0]
            smoothed.append(SMOOTHING * last + (1.0 - SMOOTHING) * plans[:, t])
        plan = self.refiner(torch.stack(smoothed, 1)) + vector[:, None]
        logits = self.decoder(plan, inputs, embedded[:, :prompt])

        nll = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        token = (nll * weights.flatten()).sum() / weights.sum()
        last_chunk = F.one_hot(torch.full_like(intent, plan.shape[1] - 1), plan.shape[1]).float()
        stop = F.binary_cross_entropy_with_logits(self.stop(plan)[..., 0], last_chunk)
        gate = F.binary_cross_entropy_with_logits(self.answerable(context)[:, 0], answerable)
        predicted = self.latent(plan)
        latent = F.mse_loss(predicted[:, :-1], plan[:, 1:].detach().to(predicted.dtype))
        asked, said = (F.normalize(z, dim=1) for z in (context, m[:, -1]))
        contrastive = F.cross_entropy(asked @ said.T / TEMPERATURE, rows)
        judged = [
            self.relevance(torch.cat([asked, answer], 1))
            for answer in (said, said.roll(1, 0), predicted[:, -1].detach().to(said.dtype))
        ]
        relevance = (
            F.softplus(-judged[0]) + 0.5 * F.softplus(judged[1]) + 0.5 * F.softplus(judged[2])
        )
        total = token + 0.5 * stop + 0.5 * F.cross_entropy(known, intent) + 0.3 * gate
        return total + latent + contrastive + 0.25 * relevance.mean()

    def _embedded(self, tokens):
        width, places = self.embed.embedding_dim, torch.arange(tokens.shape[1])[:, None]
        angles = places * torch.exp(torch.arange(0, width, 2) * (-math.log(1e4) / width))
        waves = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
        return width**0.5 * self.embed(tokens) + waves


def make_step(batch, time, vocab, width, layers, dtype):
    """Return (training step, parameters): forward, backward, clipping and AdamW on random bytes."""
    model = RNK(vocab, width, layers)
    tokens = torch.randint(97, 123, (batch, time + 1))
    prompt = time // 4
    weights = (torch.arange(time) >= prompt).float().expand(batch, -1).contiguous()
    intent, answerable = torch.randint(INTENTS, (batch,)), torch.randint(2, (batch,)).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01)
    narrow = dtype == "bfloat16"

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = model(tokens, weights, intent, answerable, prompt)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step, sum(p.numel() for p in model.parameters())
