"""The presets that ``experiment=`` names: settings, and parameters of the plugins that a run uses."""

from __future__ import annotations

from typing import Any

# Cells of the final phase as those that are searched: twenty of them, half of the time without a path and
# with a second head, learn too little in minutes.
_SHORT = {"final_layers": None, "final_channels": None, "drop_path": 0.0, "auxiliary": 0.0}

EXPERIMENTS: dict[str, dict[str, Any]] = {
    # Minutes on a laptop without a GPU: trainings as long as a fixed amount of work allows.
    "quick": {
        "settings": {"effort": 1.0, "final": {"seeds": 3, "limit": 5, "least": 5}},
        "plugins": {
            "space": {
                "aggconv": {"final_width": 1},
                **dict.fromkeys(("darts", "s1", "s2", "s3", "s4"), _SHORT),
            },
            "strategy": {
                # Over a few hundred steps the Gumbel noise would drown what the mixture has to learn.
                "dash": {
                    "mixture_optimizer": "adam",
                    "mixture_lr": 0.1,
                    "noise": 0.0,
                    "candidates": 7,
                },
                # As many steps as the published rates need would take hours.
                "darts": {"mixture_lr": 0.03},
                "darts_pt": {"mixture_lr": 0.03, "tune_epochs": 1},
                "gaea": {"mixture_lr": 0.03, "adaptive": True},
                "gdas": {"mixture_lr": 0.03},
                "pc_darts": {"mixture_lr": 0.03},
                "proxyless": {"mixture_lr": 0.1, "interval": 2},
                "reinmax": {"mixture_lr": 0.03},
                "robust_darts": {"mixture_lr": 0.03},
                "sd_darts": {"mixture_lr": 0.03},
                "sharp_darts": {"mixture_lr": 0.03},
                "weight_sharing": {"rounds": 2, "samples": 60},
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
            "space": {
                "aggconv": {"width": 1, "final_width": 4, "channels": "paper"},
                # Liu, Simonyan and Yang 2019, section 3.
                "darts": {"layers": 8, "channels": 16, "final_layers": 20, "final_channels": 36},
                "xd": {"backbone": "pde", "transforms": "butterflies", "circular": True},
            },
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
    # The constants of the DARTS papers, whose SGD has no Nesterov momentum; days on a GPU. Without cutout and
    # the floor of 0.001 of their learning rate; batches of 256 with rate 0.1 (PC-DARTS, GAEA), rate 0.05
    # (ProxylessNAS) and batches of 96 in the final phase are settings of a run, not of a strategy.
    "paper_darts": {
        "settings": {
            "recipe": {
                "epochs": 50,
                "batch_size": 64,
                "optimizer": "sgd",
                "lr": 0.025,
                "momentum": 0.9,
                "weight_decay": 3e-4,
                "schedule": "cosine",
                "clip": 5.0,
            },
            "final": {"epochs": 600, "seeds": 3, "limit": 4},
        },
        "plugins": {
            "strategy": {
                "darts": {"mixture_lr": 3e-4, "mixture_decay": 1e-3},
                "gaea": {"mixture_lr": 0.1, "edges": True},
                "gdas": {"hot": 10.0, "cold": 0.1, "mixture_lr": 3e-4},
                "pc_darts": {"share": 4, "warmup": 0.3, "mixture_lr": 6e-4},
                "proxyless": {"epochs": 160, "warmup": 0.25, "interval": 5, "mixture_lr": 1e-3},
                "robust_darts": {"mode": "adapt", "factor": 1.3, "interval": 2, "mixture_lr": 3e-4},
                "weight_sharing": {"samples": 1000, "batches": 10, "top": 10},
            },
        },
    },
    # The constants of XD's experiments with equations (Roberts et al. 2021) for Burgers' equation; hours on a
    # GPU. For Darcy flow the transforms have recipe.transform_optimizer=sgd recipe.transform_lr=0.1
    # recipe.transform_momentum=0.5. For Navier-Stokes in volumes (task.steps=20 with viscosity 0.0001, 10
    # with 0.00001) they have sgd, 0.005 or 0.001, and that momentum, and the weights recipe.lr=0.0025
    # recipe.batch_size=10. The data were 1,000 samples to learn from and 100, there 200, to test on
    # (task.samples, task.test_samples).
    "paper_xd": {
        "settings": {
            "recipe": {
                "epochs": 500,
                "batch_size": 20,
                "optimizer": "adam",
                "lr": 1e-3,
                "weight_decay": 1e-4,
                "schedule": "step",
                # Every 100 epochs; a rate changes after the epoch, counted from 0, that a milestone names.
                "milestones": [99, 199, 299, 399],
                "decay": 0.5,
                "transform_optimizer": "adam",
                "transform_lr": 1e-3,
                "transform_decay": 1e-4,
            },
            "final": {"epochs": 500, "seeds": 3, "limit": 4},
        },
        "plugins": {
            "space": {
                # Its channels are the published ones already, and so is one product of butterflies for each
                # of K, L and M.
                "xd": {"backbone": "pde", "transforms": "butterflies", "circular": True},
            },
        },
    },
}
