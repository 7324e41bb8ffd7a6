"""Task-Aware Variational Adversarial Active Learning (arXiv 2002.04709): what does not look selected yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vecaf_hf.learners.learn_loss import LearnLoss
from vecaf_hf.learners.learner import Run
from vecaf_hf.scoring.resolution import find_images
from vecaf_hf.seeding import seed_of
from vecaf_hf.selection.candidates import Candidates

IMAGE_SIZE = 32
LATENT = 32
BETA = 1.0
LEARNING_RATE = 5e-4
# Channels of the encoder's four convolutions, and units of the discriminator's two layers, as in the published code.
CHANNELS = (128, 256, 512, 1024)
UNITS = 512


class RankVAE(nn.Module):
    """A VAE of images whose decoder knows the rank of each.

    Args:
        colours: Channels c of an image.
    """

    def __init__(self, colours: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for taken, given in pairwise((colours, *CHANNELS)):
            layers += [nn.Conv2d(taken, given, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(given), nn.ReLU()]
        side = IMAGE_SIZE // 2 ** len(CHANNELS)
        self.encoder = nn.Sequential(*layers, nn.Flatten())
        self.mean = nn.Linear(CHANNELS[-1] * side**2, LATENT)
        self.log_variance = nn.Linear(CHANNELS[-1] * side**2, LATENT)
        widths = CHANNELS[::-1]
        layers = [nn.Linear(LATENT + 1, widths[0] * side**2), nn.Unflatten(1, (widths[0], side, side))]
        for taken, given in pairwise(widths):
            layers += [nn.BatchNorm2d(taken), nn.ReLU()]
            layers += [nn.ConvTranspose2d(taken, given, 4, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(widths[-1]), nn.ReLU()]
        self.decoder = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], colours, 4, stride=2, padding=1))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[n, c, 32, 32] -> mu and the logarithm of sigma squared of q(z | x), [n, 32] each."""
        seen = self.encoder(images)
        return self.mean(seen), self.log_variance(seen)

    def decode(self, latents: Tensor, ranks: Tensor) -> Tensor:
        """z [n, 32] and r [n] -> the mean of p(x | z, r), [n, c, 32, 32]."""
        return self.decoder(torch.cat([latents, ranks[:, None]], dim=1))


class Discriminator(nn.Module):
    """Whether a sample is among the selected ones, by its latent mean and its rank."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [LATENT + 1, UNITS, UNITS]
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(UNITS, 1))

    def forward(self, means: Tensor, ranks: Tensor) -> Tensor:
        """mu [n, 32] and r [n] -> the logit of D, [n]."""
        return self.layers(torch.cat([means, ranks[:, None]], dim=1)).squeeze(1)


def evidence_loss(images: Tensor, decoded: Tensor, means: Tensor, log_variances: Tensor) -> Tensor:
    """-E[log p(x | z, r)] + beta KL(q(z | x) || N(0, 1)), the transductive loss of selected or other samples, [].

    p is a Gaussian of variance 1, without its constant; sums over pixels and latents, a mean over the batch. (The
    published code adds a mean over pixels to a sum over latents and batch, which leaves z nothing to say.)
    """
    reconstruction = 0.5 * (images - decoded).square().flatten(1).sum(dim=1)
    divergence = -0.5 * (1 + log_variances - means.square() - log_variances.exp()).sum(dim=1)
    return (reconstruction + BETA * divergence).mean()


def adversarial_loss(selected: Tensor, others: Tensor) -> Tensor:
    """-E[log D(selected)] - E[log D(others)] from logits: the VAE wants both taken for selected, []."""
    return functional.softplus(-selected).mean() + functional.softplus(-others).mean()


def discriminator_loss(selected: Tensor, others: Tensor) -> Tensor:
    """-E[log D(selected)] - E[log(1 - D(others))] from logits, []."""
    return functional.softplus(-selected).mean() + functional.softplus(others).mean()


@dataclass(frozen=True)
class Portraits:
    """Samples as the VAE sees them.

    Args:
        images: float16 [n, c, 32, 32].
        ranks: [n].
    """

    images: Tensor
    ranks: Tensor

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """At most `count` of them, all different."""
        rows = torch.randperm(len(self.ranks), generator=generator)[:count].to(self.ranks.device)
        return self.images[rows].float(), self.ranks[rows]


class TAVAAL(LearnLoss):
    """Scores say how little a sample looks like those selected so far.

    The rank is the logistic of LearnLoss's predicted loss, the paper's normalised ranking. At a loop's beginning at
    most K selected samples and as many others are looked at in one scoring pass, so that the transform does not tell
    them apart; after every optimizer step a batch of both is learned from.
    """

    def __init__(self, model: nn.Module, run: Run) -> None:
        super().__init__(model, run)
        self._held: dict[str, Portraits] = {}
        self._looking = False

    def sizes(self, inputs: Mapping[str, Any], count: int) -> Any:
        colours = self._images(inputs).shape[1]
        return super().sizes(inputs, count), colours

    def build(self, sizes: Any) -> None:
        levels, colours = sizes
        super().build(levels)
        self.vae, self.discriminator = RankVAE(colours), Discriminator()
        self._optimizers = {}
        for name, network in (("vae", self.vae), ("discriminator", self.discriminator)):
            parameters = network.to(self.run.device).parameters()
            self._optimizers[name] = torch.optim.Adam(parameters, lr=LEARNING_RATE)

    def networks(self) -> nn.ModuleDict:
        return nn.ModuleDict({**super().networks(), "vae": self.vae, "discriminator": self.discriminator})

    # --- Looking at samples ---

    def scores(self, inputs: Mapping[str, Any], count: int) -> dict[str, Tensor]:
        ranks, images = self.predicted(count).sigmoid(), self._images(inputs)
        if self._looking:
            return {"learned_scores": ranks, "images": images}
        self.vae.eval()
        with self.run.counted("ta_vaal scores", count):
            means, _ = self.vae.encode(images)
            # The logit of 1 - D, which tells samples apart where D itself is 0 or 1.
            return {"learned_scores": -self.discriminator(means, ranks)}

    def begin_loop(self, selected: Tensor, others: Tensor, look: Callable[[Tensor], Candidates]) -> None:
        generator = torch.Generator().manual_seed(seed_of(self.run.seed, len(selected)))
        sides = {
            name: side[torch.randperm(len(side), generator=generator)[: self.run.budget]].sort().values
            for name, side in (("selected", selected), ("others", others))
        }
        self._looking = True
        try:
            seen = look(torch.cat(list(sides.values())).sort().values)
        finally:
            self._looking = False
        self._held = {name: _portraits(seen.take(torch.isin(seen.indices, side))) for name, side in sides.items()}

    def end(self) -> None:
        self._held = {}

    def _images(self, inputs: Mapping[str, Any]) -> Tensor:
        wanted = f"strategy {self.run.strategy!r} resizes"
        _, images = find_images(self.model, inputs, wanted, "choose another strategy")
        size = (IMAGE_SIZE, IMAGE_SIZE)
        return functional.interpolate(images.float(), size, mode="bilinear", antialias=True)

    # --- Learning ---

    def step(self, step: int) -> None:
        """A step of the VAE against the discriminator as it is, then one of the discriminator."""
        if not self._held or not all(len(side.ranks) for side in self._held.values()):
            return
        generator = torch.Generator().manual_seed(seed_of(self.run.seed, step, self.run.rank))
        sides = [side.draw(self.run.batch_size, generator) for side in self._held.values()]
        images, ranks = (torch.cat(parts).to(self.run.device) for parts in zip(*sides, strict=True))
        first = len(sides[0][1])
        noise = torch.randn(len(ranks), LATENT, generator=generator).to(self.run.device)
        self.vae.train()
        with self.run.counted("ta_vaal step", len(ranks)), torch.autocast(self.run.device.type, enabled=False):
            means, log_variances = self.vae.encode(images)
            decoded = self.vae.decode(means + noise * (0.5 * log_variances).exp(), ranks)
            logits = self.discriminator(means, ranks)
            evidence = sum(
                evidence_loss(images[rows], decoded[rows], means[rows], log_variances[rows])
                for rows in (slice(first), slice(first, None))
            )
            self._improve("vae", evidence + adversarial_loss(logits[:first], logits[first:]))
            with torch.no_grad():
                means, _ = self.vae.encode(images)
            logits = self.discriminator(means, ranks)
            self._improve("discriminator", discriminator_loss(logits[:first], logits[first:]))

    def _improve(self, name: str, loss: Tensor) -> None:
        optimizer = self._optimizers[name]
        parameters = optimizer.param_groups[0]["params"]
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = self.run.average(gradient)
        optimizer.step()
        optimizer.zero_grad()

    # --- Checkpoints ---

    def state_dict(self) -> dict[str, Tensor]:
        state = super().state_dict()
        for name, optimizer in self._optimizers.items():
            for parameter, moments in optimizer.state_dict()["state"].items():
                state |= {f"{name}_optimizer.{parameter}.{key}": value for key, value in moments.items()}
        for name, side in self._held.items():
            state |= {f"held.{name}.{key}": value for key, value in vars(side).items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        for name, optimizer in self._optimizers.items():
            moments: dict[int, dict[str, Tensor]] = {}
            for key, value in _below(state, f"{name}_optimizer.").items():
                parameter, _, moment = key.partition(".")
                moments.setdefault(int(parameter), {})[moment] = value.clone()
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        held = {name: _below(state, f"held.{name}.") for name in ("selected", "others")}
        # In memory of their own: what is read from a file lies elsewhere in it, and sums differ in their last bit.
        self._held = {
            name: Portraits(**{key: value.clone() for key, value in side.items()})
            for name, side in held.items()
            if side
        }


def _portraits(seen: Candidates) -> Portraits:
    assert seen.images is not None and seen.learned_scores is not None
    return Portraits(seen.images.half(), seen.learned_scores)


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
