"""The presets that ``experiment=`` names: settings, and parameters of the plugins that a run uses."""

from __future__ import annotations

from typing import Any

EXPERIMENTS: dict[str, dict[str, Any]] = {
    # Minutes on a laptop without a GPU: trainings as long as a fixed amount of work allows.
    "quick": {
        "settings": {"effort": 1.0, "final": {"seeds": 3, "limit": 5, "least": 5}},
        "plugins": {
            "space": {"aggconv": {"final_width": 1}},
            "strategy": {
                # Over a few hundred steps the Gumbel noise would drown what the mixture has to learn.
                "dash": {
                    "mixture_optimizer": "adam",
                    "mixture_lr": 0.1,
                    "noise": 0.0,
                    "candidates": 7,
                },
            },
        },
    },
    # The constants of the DASH paper and its released code; hours on a GPU.
    "paper": {
        "settings": {
            "recipe": {
                "epochs": 200,
                "optimizer": "sgd",
                "lr": 0.1,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "schedule": "step",
                # For series the paper has 30, 60, 90, 120, 160.
                "milestones": [60, 120, 160],
                "decay": 0.2,
            },
            "final": {"epochs": 200, "seeds": 3, "limit": 8},
        },
        "plugins": {
            "space": {"aggconv": {"width": 1, "final_width": 4, "channels": "paper"}},
            "strategy": {
                "dash": {
                    "epochs": 100,
                    "fraction": 0.2,
                    "mixture_optimizer": "sgd",
                    "mixture_lr": 0.05,
                    "clip": 1.0,
                    "temperature": 1.0,
                    # 5000 for CIFAR-100, 1000 for Cosmic, 500 for Spherical, 10 for DeepSEA.
                    "grad_scale": 100.0,
                    "field_penalty": 1e-5,
                    "lrs": [1e-1, 1e-2, 1e-3],
                    "dropouts": [0.0, 0.05],
                    "weight_decays": [5e-4, 5e-6],
                    "momenta": [0.9, 0.99],
                    "tune_epochs": 80,
                    "tune_fraction": "paper",
                },
            },
        },
    },
}
