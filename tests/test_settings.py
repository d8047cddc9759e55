"""Every setting of every stage changes what the stage leaves behind, or is listed with the reason why not."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from luban import config as settings
from luban.cli import STAGES, main
from luban.folder import RUN_FILE
from luban.inference.engine.config import EngineConfig
from luban.serving.limits import Limits
from tests.alignment.short_answers import short_and_long, write_rows
from tests.alignment.test_switches import EXCUSED as ALIGNMENT
from tests.conftest import Workspace
from tests.tuning.test_translate import write_pairs

PLACE = "where the result is written, not what it is"
SPEED = "changes the speed and not the result"
DEVICE = "this machine has one device; unknown and absent ones are tested in test_device.py"
SOURCES = "of parallel text and bombs; tested in tests/data/sources"
LENGTHS = (
    "needs answers of several lengths, which tiny models do not give; tested in tests/inference/test_beam.py"
)
GRID = "asks a trained grid; tested in tests/training/scaling"
NETWORK = "fetching is tested in test_fetch.py"
LIMITS = tuple(f"limits.{name}" for name, _, _ in settings.leaves(Limits))
ENGINE = tuple(f"engine.{name}" for name, _, _ in settings.leaves(EngineConfig))
PRETRAIN = ("loop.max_steps=4", "loop.per_device_train_batch_size=2", "loop.max_length=32", "loop.compile=false",
            "loop.logging_steps=2", "loop.save_steps=2", "architecture.layers=1", "architecture.dim=32",
            "architecture.heads=2", "--threads", "1")  # fmt: skip
OPTIMIZER = {
    "optimizer.learning_rate": "optimizer.learning_rate=0.01",
    "optimizer.lr_scheduler_type": "optimizer.lr_scheduler_type=constant optimizer.warmup_steps=0",
    "optimizer.warmup_steps": "optimizer.warmup_steps=3",
    "optimizer.min_lr_ratio": "optimizer.warmup_steps=0 | optimizer.min_lr_ratio=0.9",
    "optimizer.decay_ratio": "optimizer.warmup_steps=0 optimizer.lr_scheduler_type=wsd | optimizer.decay_ratio=0.9",
    "optimizer.weight_decay": "optimizer.weight_decay=5",
    "optimizer.adam_beta1": "optimizer.adam_beta1=0.5",
    "optimizer.adam_beta2": "optimizer.adam_beta2=0.5",
    "optimizer.adam_epsilon": "optimizer.adam_epsilon=1e-3",
    "optimizer.max_grad_norm": "optimizer.max_grad_norm=1e-9",
}
LOOP = {
    "loop.max_steps": "loop.max_steps=3",
    "loop.num_train_epochs": "loop.max_steps=0 loop.num_train_epochs=0.1 | loop.num_train_epochs=0.2",
    "loop.per_device_train_batch_size": "loop.per_device_train_batch_size=3",
    "loop.gradient_accumulation_steps": "loop.gradient_accumulation_steps=2",
    "loop.max_length": "loop.max_length=48",
    "loop.logging_steps": "loop.logging_steps=1",
    "loop.eval_steps": "loop.eval_steps=1",
    "loop.eval_batches": "loop.eval_batches=1",
    "loop.save_steps": "loop.save_steps=3",
    "loop.save_total_limit": "loop.save_total_limit=1",
    "loop.precision": "loop.precision=bfloat16",
    "loop.metric_for_best": "loop.eval_steps=1 | loop.metric_for_best=val/loss",
    "loop.load_best": "loop.eval_steps=1 loop.metric_for_best=val/loss optimizer.learning_rate=1 | loop.load_best=true",
    "loop.patience": "loop.eval_steps=1 loop.metric_for_best=val/loss optimizer.learning_rate=1 | loop.patience=1",
    "loop.report_to": "loop.report_to=tensorboard",
}
NGRAM = "--model ngram loop.max_steps=0 architecture.heads=0"
COUNTING = {
    "counting.estimator": f"{NGRAM} | counting.estimator=katz",
    "counting.k": f"{NGRAM} counting.estimator=add-k | counting.k=0.1",
    "counting.prune": f"{NGRAM} | --counting.prune 0 1",
    "counting.order": f"{NGRAM} | counting.order=2",
    "counting.arpa": f"{NGRAM} | counting.arpa=true",
    "counting.words": f"{NGRAM} counting.arpa=true | counting.words=numbers",
}
SAMPLING = {
    "max_tokens": "--max-tokens 3",
    "temperature": "--temperature 0",
    "top_k": "--top-k 1",
    "top_p": "--top-p 0.01",
    "min_p": "--min-p 1",
    "repetition_penalty": "--temperature 0 | --repetition-penalty 3",
    "presence_penalty": "--temperature 0 | --presence-penalty 9",
    "frequency_penalty": "--temperature 0 | --frequency-penalty 9",
    "typical_p": "--typical-p 0.01",
    "no_repeat_ngram": "--temperature 0 | --no-repeat-ngram 1",
    "logit_bias": "--temperature 0 | --logit-bias.65 100",
    "allowed_ids": "--allowed-ids 65 66",
    "bad_words": "--temperature 0 --logit-bias.72 100 | --bad-words e f",
    "stop": "--stop e a o t n s",
    "stop_ids": "--allowed-ids 65 66 | --stop-ids 65 66",
    "min_tokens": "--allowed-ids 65 66 --stop-ids 65 --logit-bias.65 100 | --min-tokens 3",
    "skip_special": "--allowed-ids 1 65 | --skip-special false",
    "seed": "--seed 8",
}

PREFERRING = {
    "model": "--model {other_model}",
    "data": "--data {other_preferences}",
    "validation": "--validation 0.5",
    "packing": "packing=false",
    "peft": "peft.method=lora",
    "seed": "--seed 5",
    "max_rows": "--max-rows 9",
    "optimizer.learning_rate": OPTIMIZER["optimizer.learning_rate"],
    "loop.max_steps": LOOP["loop.max_steps"],
    "loop.max_length": "loop.max_length=200",
}
"""What the stages that learn from pairs share."""

# Per stage: the words of a base run. {name} is a path of the workspace, {out} a fresh folder.
BASE = {
    "data prepare": "--data {raw} --out {out}",
    "data mix": "--data {documents} {other_documents} --out {out}",
    "data contamination": "--data {documents} --against {rows} --out {out}",
    "data ngram": "--data {documents} --order 3 --out {out}",
    "data classifier": "--good {documents} --raw {documents} --holdout 0.5 --out {out}",
    "data shards": "--data {documents} --tokenizer {tokenizer} --out {out}",
    "data ablate": "--data one:{documents} --holdout {documents} --out {out} --vocab 320 --tokens 2048 --layers 1"
    " --dim 32 --seeds 0 --per-device-train-batch-size 2 --max-length 64 --threads 1 repeats=[]",
    "data check": "{rows} --model {model}",
    "data balance": "--data {pool} --log {log} --out {out}",
    "data expand": "--data {pairs} --templates definition columns.word=source columns.definition=target --out {out}",
    "tokenizer train": "--data {documents} --vocab 300 --out {out}",
    "tokenizer compare": "{tokenizer} --data {documents}",
    "tokenizer explain": "lowest",
    "tokenizer extend": "--model {tokenizer} --add Jonah --out {out}",
    "group-heads": "--model {model} --kv-heads 1 --out {out}",
    "merge": "--model {model} --models {other_model} --method ties --out {out}",
    "export": "--model {model} --quantize int8 --out {out}",
    "import": "{gguf} --out {out}",
    "models": "",
    "plan": "",
    "pretrain": "--data {shards} --tokenizer {tokenizer} --validation {held_out} --out {out} "
    + " ".join(PRETRAIN),
    "scaling": "--data {shards} --tokenizer {tokenizer} --validation {held_out} --out {out} --sizes 1x16 1x24 1x32"
    " --flops 2e7 6e7 --max-length 32 --eval-batches 1 --resamples 2 --threads 1"
    " --per-device-train-batch-size 2",
    "dist server": "--data {shards} --tokenizer {tokenizer} --out {out} --engine embedded --mode async --pushes 6"
    " --per-device-train-batch-size 2 --max-length 32 --logging-steps 2 --threads 1 "
    + " ".join(PRETRAIN[6:9]),
    "sft": "--model {model} --data {rows} --out {out} "
    + " ".join(PRETRAIN[:6])
    + " --threads 1 loop.max_length=256",
    "extend": "--model {model} --data {shards} --validation {held_out} --context 512"
    " --out {out} " + " ".join(PRETRAIN[:6]) + " --threads 1",
    "continual": "--model {model} --tasks {rows} {questions} --out {out} --validation 0.5 --max-rows 12 "
    + " ".join(PRETRAIN[:6])
    + " --threads 1 loop.max_length=256",
    "eval lengths": "--models {model} --data {documents} --lengths 64 --tokens 200",
    "eval passkey": "--models {model} --lengths 120 --samples 2 --out {out}",
    "data pairs": "--data {questions} --out {out}",
    **{
        stage: "--model {model} --data {preferences} --out {out} --validation 0.3 "
        + " ".join((*PRETRAIN[:2], *PRETRAIN[3:6]))
        + " --threads 1 loop.max_length=128"
        for stage in ("reward", "dpo")
    },
    "classify": "--model {model} --data {labelled} --out {out} --validation 0.3 --test 0.3 "
    + " ".join((*PRETRAIN[:2], *PRETRAIN[3:6]))
    + " --threads 1 loop.max_length=48 optimizer.warmup_steps=0",
    "classify apply": "--model {classifier} --text Jonah --threads 1",
    "prompt": "--model {model} --data {labelled} --train {other_labelled} --out {out} --shots 2 --baseline false"
    " --threads 1",
    "translate": "--data {pairs} --validation {held_pairs} --out {out} vocab=300 beams=2 bleu_pairs=2 "
    + " ".join((*PRETRAIN[:2], *PRETRAIN[4:]))
    + " loop.max_length=24",
    "eval": "--model {model} --data {documents} --questions {rows} --max-questions 3",
    "generate": "--model {model} --prompt hello --max-tokens 24 --seed 1",
    "fill-mask": "--model {masked} --prompt in[MASK]the",
    "inspect attention": "--model {model} --prompt hello --out {out}",
    "chat": "--model {model} --prompt hello --max-tokens 24 --seed 1",
}
# Per stage and setting: words that must change the result; before a `|` stand words that the base run gets too.
CHANGES: dict[str, dict[str, str]] = {
    "data prepare": {
        "data": "--data {raw} {questions}",
        "recipe": "--recipe gopher",
        "steps": "steps.length.min_characters=2000",
        "reading.text_key": "--reading.text-key id",
        "reading.license": "--reading.license CC0-1.0",
        "reading.format": "--reading.format lines",
        "reading.columns": "--data {csv} | reading.columns.id=who",
        "reading.max_record_bytes": "--reading.max-record-bytes 3000",
        "holdout": "--holdout 2",
        "seed": "--seed 5",
    },
    "data mix": {
        "data": "--data {documents}/holdout.jsonl",
        "weights": "--weights 1 3",
        "temperature": "--temperature 4",
        "max_epochs": "--max-epochs 2",
        "megabytes": "--megabytes 0.1",
        "seed": "--seed 5",
    },
    "data contamination": {
        "data": "--data {documents}/holdout.jsonl",
        "against": "--against {questions}",
        "results": "--results {scores}",
        "max_n": "--max-n 20",
        "min_n": "--min-n 5",
        "common": "--common 1",
    },
    "data ngram": {
        "data": "--data {documents}/holdout.jsonl",
        "order": "--order 2",
        "prune": "--prune 0 1",
        "words": "--words spaces",
        "normalise": "--normalise false",
        "arpa": "--arpa true",
    },
    "data classifier": {
        "good": "--good {documents}",
        "raw": "--raw {documents}",
        "bits": "--bits 12",
        "epochs": "--epochs 1",
        "learning_rate": "--learning-rate 0.5",
        "holdout": "--holdout 0.4",
        "seed": "--seed 5",
    },
    "data shards": {
        "data": "--data {documents}/holdout.jsonl",
        "tokenizer": "--tokenizer {other}",
        "holdout": "--holdout true",
        "bos": "--bos false",
        "shard_tokens": "--shard-tokens 2000",
    },
    "data ablate": {
        "data": "--data two:{raw}/chapters.jsonl",
        "holdout": "--holdout {raw}/chapters.jsonl",
        "tokenizer": "--tokenizer {other}",
        "vocab": "--vocab 330",
        "tokens": "--tokens 4096",
        "layers": "--layers 2",
        "dim": "--dim 64",
        "per_device_train_batch_size": "--per-device-train-batch-size 1",
        "max_length": "--max-length 32",
        "learning_rate": "--learning-rate 0.01",
        "seeds": "--seeds 1",
        "mixtures": "--data two:{raw}/chapters.jsonl | --mixtures one:1,two:1",
        "duplicate": "--duplicate 2",
        "duplicate_share": "--duplicate 2 | --duplicate-share 0.9",
        "repeats": "--repeats 1 --probes 1 | --repeats 3",
        "probes": "--repeats 1 --probes 1 | --probes 2",
        "prefix": "--repeats 1 --probes 1 | --prefix 8",
        "continuation": "--repeats 1 --probes 1 | --continuation 8",
        "max_documents": "--max-documents 1",
    },
    "data check": {
        "data": "{questions}",
        "model": "--model {other}",
        "rows": "--rows 1",
        "max_tokens": "--max-tokens 40",
        "loss_on": "--loss-on all",
    },
    "data balance": {
        "data": "--data {asked}",
        "log": "--log {asked}",
        "labelled": "--labelled {asked}",
        "rows": "--rows 8",
        "max_epochs": "--max-epochs 0.5",
        "seed": "--seed 5",
    },
    "data expand": {
        "data": "--data {other_pairs}",
        "templates": "--templates summary columns.text=source columns.summary=target",
        "columns": "columns.word=target",
        "labels": "--templates topic columns.text=source columns.label=target | labels.a=b",
        "zero_shot": "--zero-shot 2",
        "few_shot": "--few-shot 2",
        "chain_of_thought": "{reasons} | --chain-of-thought 2",
        "few_shot_chain": "{reasons} | --few-shot-chain 2",
        "shots": "--shots 1",
        "max_rows": "--max-rows 5",
        "seed": "--seed 5",
    },
    "tokenizer train": {
        "data": "--data {documents}/holdout.jsonl",
        "vocab": "--vocab 301",
        "type": "--type words",
        "pattern": "--pattern gpt2",
        "min_frequency": "--vocab 20000 | --min-frequency 9",
        "special_tokens": "--special-tokens <mask>",
        "sentinels": "--sentinels 5",
        "max_bytes": "--max-bytes 3000",
    },
    "tokenizer compare": {
        "tokenizers": "--tokenizers {other}",
        "data": "--data {documents}/holdout.jsonl",
        "holdout": "--holdout true",
        "max_bytes": "--max-bytes 3000",
    },
    "tokenizer explain": {
        "text": "--text widow",
        "type": "--type unigram",
        "words": "--words hug:10 pug:5 pun:12 bun:4 hugs:5",
        "pieces": "--pieces 3",
    },
    "tokenizer extend": {
        "model": "--model {model}",
        "add": "--add Ruth",
        "file": "--file {prompts}",
        "special": "--special",
    },
    "group-heads": {"model": "--model {other_model}"},
    "merge": {
        "model": "--model {other_model}",
        "models": "--method task_arithmetic | --models {other_model}",
        "method": "--method task_arithmetic",
        "weights": "--method task_arithmetic | --weights 0.5",
        "density": "--density 0.5",
        "scale": "--scale 0.5",
        "dtype": "--dtype bfloat16",
    },
    "export": {
        "model": "--model {other_model}",
        "quantize": "--quantize bfloat16",
        "gguf": "--quantize none --gguf f16 | --gguf f32",
        "dtype": "--dtype bfloat16",
        "head": "--head false",
        "text": "--text {prompts}",
        "tokens": "--tokens 9",
    },
    "import": {"gguf": "--gguf {other_gguf}"},
    "models": {"model": "--model {model}"},
    "plan": {
        "model": "--model {model}",
        "vocab": "--vocab 99",
        "per_device_train_batch_size": "--per-device-train-batch-size 3",
        "gradient_accumulation_steps": "--gradient-accumulation-steps 3",
        "max_length": "--max-length 99",
        "tokens": "--tokens 12345678",
        "minutes": "--minutes 0.5",
        "peft": "peft.method=lora",
        "ppo": "--ppo shared",
        "params": "layers=2 dim=256 params=9e6 | params=8e6",
        "layers": "layers=2 dim=256 params=9e6 | layers=3",
        "dim": "layers=2 dim=256 params=9e6 | dim=128",
        "heads": "layers=2 dim=256 params=9e6 --cluster 8xA100 | heads=1",
        "compile": "--compile true",
        "gradient_checkpointing": "--gradient-checkpointing",
        "cluster": "--cluster 8xA100",
        "batch_tokens": "--cluster 8xA100 | --batch-tokens 1e6",
        "precision": "--cluster 8xA100 | --precision autocast",
        "layout.dp": "--cluster 8xA100 | layout.dp=2",
        "layout.tp": "--cluster 8xA100 | layout.tp=4",
        "layout.pp": "--cluster 8xA100 | layout.pp=4",
        "layout.zero": "--cluster 8xA100 | layout.zero=3",
        "layout.micro_batch": "--cluster 8xA100 | layout.micro_batch=2",
        "layout.chunks": "--cluster 8xA100 layout.pp=2 layout.chunks=1 | layout.chunks=2",
        "layout.recompute": "--cluster 8xA100 | layout.recompute=true",
        "architecture.model_type": "architecture.model_type=gpt2",
        "architecture.layers": "architecture.layers=3",
        "architecture.dim": "architecture.dim=128",
        "architecture.heads": "architecture.kv_heads=1 architecture.heads=4 | architecture.heads=8",
        "architecture.kv_heads": "architecture.kv_heads=1",
        "architecture.hidden": "architecture.hidden=99",
        "architecture.tied": "architecture.tied=false",
    },
    "pretrain": {
        "data": "loop.max_length=512 loop.per_device_train_batch_size=8 | --data {held_out}",
        "tokenizer": "--tokenizer {other}",
        "weights": "--data {held_out} loop.max_length=512 loop.per_device_train_batch_size=8 | --weights 1 9",
        "validation": "--validation {shards}",
        "model": "--model {model}",
        "architecture.model_type": "architecture.model_type=qwen3",
        "architecture.layers": "architecture.layers=2",
        "architecture.dim": "architecture.dim=64",
        "architecture.heads": "architecture.heads=4",
        "architecture.kv_heads": "architecture.kv_heads=1",
        "architecture.hidden": "architecture.hidden=99",
        "architecture.tied": "architecture.tied=false",
        "architecture.context": "architecture.context=99",
        "packing": "packing=windows",
        "stride": "packing=windows | stride=7",
        "free_running": "--free-running 0.5",
        **COUNTING,
        "prompts": "--prompts hello",
        "sample_steps": "--prompts hello | --sample-steps 1",
        "seed": "--seed 5",
        **OPTIMIZER,
        **LOOP,
    },
    "scaling": {"data": "--data {held_out}", "validation": "--validation {shards}"},
    "dist server": {
        "data": "--data {held_out}",
        "tokenizer": "--tokenizer {other}",
        "mode": "--mode sync",
        "workers": "--workers 3",
        "bound": "--delays 0 5 | --bound 0",
        "slow_down": "--slow-down",
        "delays": "--delays 0 5",
        "pushes": "--pushes 8",
        "per_device_train_batch_size": "--per-device-train-batch-size 3",
        "max_length": "--max-length 48",
        "logging_steps": "--logging-steps 1",
        "seed": "--seed 5",
        "architecture.model_type": "architecture.model_type=qwen3",
        "architecture.layers": "architecture.layers=2",
        "architecture.dim": "architecture.dim=64",
        "architecture.heads": "architecture.heads=4",
        "architecture.kv_heads": "architecture.kv_heads=1",
        "architecture.hidden": "architecture.hidden=99",
        "architecture.tied": "architecture.tied=false",
        "architecture.context": "architecture.context=99",
        **OPTIMIZER,
    },
    "sft": {
        "model": "--model {other_model}",
        "data": "--data {questions}",
        "validation": "--validation 0.5",
        "loss_on": "--loss-on all",
        "overlong": "loop.max_length=96 --loss-on all | --overlong drop",
        "weights": "--data {questions} | --weights 1 9",
        "temperature": "--data {questions} | --temperature 4",
        "peft": "peft.method=lora",
        "neftune_alpha": "--neftune-alpha 5",
        "label_smoothing": "--label-smoothing 0.1",
        "packing": "packing=false",
        "seed": "--seed 5",
        "max_rows": "--max-rows 9",
        **OPTIMIZER,
        **LOOP,
        "loop.max_length": "loop.max_length=128",
        "loop.eval_batches": "--validation 0.3 | loop.eval_batches=1",
    },
    "classify": {
        "model": "--model {other_model}",
        "data": "--data {other_labelled}",
        "columns.text": "columns.text=second",
        "columns.second": "columns.second=second",
        "columns.label": "columns.label=kind",
        "labels": "--labels story prayer other",
        "multi_label": "--multi-label",
        "validation": "--validation 0.1",
        "test": "--test 0.1",
        "test_data": "--test-data {other_labelled}",
        "pooling": "--pooling first",
        "separator": "columns.second=second | --separator !",
        "packing": "--packing",
        "class_weights": "--class-weights balanced",
        "lm_weight": "--lm-weight 1",
        "frozen": "--frozen",
        "peft": "peft.method=lora",
        "baseline": "baseline=false",
        "seed": "--seed 5",
        "max_rows": "--max-rows 14",
        "optimizer.learning_rate": OPTIMIZER["optimizer.learning_rate"],
        "loop.max_steps": LOOP["loop.max_steps"],
        "loop.max_length": "loop.max_length=4",
    },
    "classify apply": {"model": "--model {other_classifier}", "text": "--text whale"},
    "prompt": {
        "model": "--model {other_model}",
        "data": "--data {other_labelled}",
        "train": "--train {labelled}",
        "columns.text": "columns.text=second",
        "columns.second": "template={{text}}{{second}}{{answer}} columns.second=second | columns.second=kind",
        "columns.label": "columns.label=kind",
        "template": "--template {{text}}:{{answer}}",
        "words": "--words.prayer amen --words.story whale",
        "search": "--candidates amen whale god sea love | --search 1",
        "candidates": "--search 1 --candidates amen whale god sea love | --candidates hope king",
        "shots": "--shots 4",
        "separator": "--separator ;",
        "calibration": "--calibration batch",
        "premise": "--calibration domain | --premise Jonah",
        "baseline": "--baseline true",
        "max_characters": "--max-characters 5",
        "max_rows": "--max-rows 9",
        "seed": "--seed 5",
    },
    "extend": {
        "model": "--model {other_model}",
        "peft": "peft.method=lora",
        "context": "--context 400",
        "method": "--method ntk",
        "attention_factor": "--attention-factor 2",
        "data": "--data {held_out}",
        "weights": "--data {held_out} | --weights 1 9",
        "packing": "--packing windows",
        "validation": "--validation {shards}",
        "documents": "--documents {documents}",
        "lengths": "--documents {documents} --tokens 600 | --lengths 100",
        "tokens": "--documents {documents} --tokens 600 | --tokens 1500",
        "seed": "--seed 5",
        "optimizer.learning_rate": OPTIMIZER["optimizer.learning_rate"],
        "loop.max_steps": LOOP["loop.max_steps"],
        "loop.max_length": "loop.max_length=128",
    },
    "continual": {
        "model": "--model {other_model}",
        "tasks": "--tasks {pairs}",
        "ways": "--ways full",
        "validation": "--validation 0.3",
        "peft": "peft.r=2",
        "adapter_learning_rate": "--adapter-learning-rate 0.1",
        "max_rows": "--max-rows 9",
        "seed": "--seed 5",
        "optimizer.learning_rate": OPTIMIZER["optimizer.learning_rate"],
        "loop.max_steps": LOOP["loop.max_steps"],
        "loop.max_length": "loop.max_length=200",
    },
    "eval lengths": {
        "models": "--models {other_model}",
        "data": "--tokens 9000 | --data {other_documents}",
        "lengths": "--lengths 100",
        "tokens": "--tokens 400",
    },
    "eval passkey": {
        "models": "--models {other_model}",
        "lengths": "--lengths 130",
        "depths": "--depths 0.3",
        "samples": "--samples 3",
    },
    "data pairs": {"data": "--data {rows}", "max_rows": "--max-rows 9", "seed": "--seed 5"},
    "reward": {
        **PREFERRING,
        "margin": "--margin 0",
        "centre": "--centre 1",
        "imitation": "--imitation 1",
    },
    "dpo": {
        **PREFERRING,
        "loss": "--loss hinge",
        "beta": "--beta 1",
        "label_smoothing": "--label-smoothing 0.2",
        "imitation": "--imitation 1",
        "gamma": "--loss simpo | --gamma 2",
        "good_weight": "--loss kto | --good-weight 2",
        "bad_weight": "--loss kto | --bad-weight 2",
        "reference": "--reference live",
    },
    "translate": {
        "data": "--data {other_pairs}",
        "validation": "--validation {other_pairs}",
        "model": "--model rnnsearch architecture.heads=0",
        "architecture.model_type": "architecture.model_type=rnnsearch architecture.heads=0",
        "architecture.layers": "architecture.layers=2",
        "architecture.dim": "architecture.dim=64",
        "architecture.heads": "architecture.heads=4",
        "architecture.hidden": "architecture.hidden=99",
        "architecture.tied": "architecture.tied=false",
        "architecture.context": "architecture.context=99",
        "norm": "norm=post",
        "tokenizer": "--tokenizer {tokenizer}",
        "vocab": "vocab=301",
        "label_smoothing": "label_smoothing=0.3",
        "bleu_pairs": "bleu_pairs=1",
        "beams": "beams=3",
        "seed": "--seed 5",
        **OPTIMIZER,
        **LOOP,
        "optimizer.min_lr_ratio": "optimizer.warmup_steps=0 optimizer.lr_scheduler_type=cosine"
        " | optimizer.min_lr_ratio=0.9",
    },
    "eval": {
        "model": "--model {other_model}",
        "data": "--data {documents}/train-00000.jsonl",
        "baselines": "--baselines {documents}",
        "questions": "--questions {questions}",
        "max_documents": "--max-documents 1",
        "max_questions": "--max-questions 2",
    },
    "generate": {
        **SAMPLING,
        "logprobs": "--logprobs",
        "ignore_eos": "--ignore-eos",
        "beams": "--beams 3",
        "model": "--model {other_model}",
        "expert": "expert={model} anti_expert={model} | expert={other_model}",
        "anti_expert": "expert={model} anti_expert={model} | anti_expert={other_model}",
        "alpha": "expert={model} anti_expert={other_model} | alpha=3",
        "prompt": "--prompt world",
        "prompts": "--prompts {prompts}",
    },
    "fill-mask": {
        "model": "--model {other_masked}",
        "prompt": "--prompt the[MASK] in[MASK]",
        "top_k": "--top-k 2",
    },
    "inspect attention": {"model": "--model {other_model}", "prompt": "--prompt world"},
    "chat": {
        **SAMPLING,
        "model": "--model {other_model}",
        "system": "--temperature 0 | --system short",
        "beams": "--beams 3",
        "prompt": "--prompt world",
    },
}
GUARD = "needs a bad batch; tested in tests/training/test_guard.py and test_resume.py"
MANY = ("dp", "tp", "pp", "zero", "offload", "schedule", "chunks", "compress")
LOOPED = tuple(
    name
    for name in (*OPTIMIZER, *LOOP)
    if name not in ("optimizer.learning_rate", "loop.max_steps", "loop.max_length")
)
"""Settings of training that a stage hands on as they are."""
COMMON = {
    **{f"parallel.{name}": "of several processes; tested in tests/training/parallel" for name in MANY},
    "out": PLACE,
    "threads": SPEED,
    "device": DEVICE,
    "loop.compile": SPEED,
    "optimizer.paged": "saves memory and changes no bit; tested in tests/training/test_paged.py",
    "loop.gradient_checkpointing": "saves memory and changes no bit; tested in tests/training/test_recompute.py",
    **dict.fromkeys(("loop.guard.action", "loop.guard.spike", "loop.guard.most_skipped"), GUARD),
}
EXEMPT: dict[str, dict[str, str]] = {
    **ALIGNMENT,
    "merge": dict.fromkeys(
        ("adapters", "text", "tokens"), "of adapters; tested in tests/tuning/test_merge.py"
    ),
    "export": {"group": "the tiny model's rows divide by one; tested in tests/inference/test_export.py"},
    "group-heads": {"kv_heads": "the tiny model has two to pool; tested in tests/tuning/test_group_heads.py"},
    "data prepare": {
        **dict.fromkeys(("engine", "workers", "memory", "part_mb"), SPEED),
        "on_error": "stops or goes on; tested in tests/data/test_prepare.py",
        **dict.fromkeys(("reading.languages", "reading.template", "reading.max_ratio"), SOURCES),
    },
    "data mix": {"workers": SPEED, "memory": SPEED},
    "data ngram": {"memory_mb": SPEED},
    "data shards": {"workers": SPEED},
    "sft": {
        "columns": "of rows with other keys; tested in tests/tuning/test_sft.py",
        "on_bad_row": "stops or goes on; tested in tests/tuning/test_sft.py",
    },
    "data check": {"columns": "of rows with other keys; tested in tests/data/test_check.py"},
    "data balance": {"columns": "of rows with other keys; tested in tests/data/test_conversations.py"},
    "pretrain": {
        "counting.memory_mb": SPEED,
        "counting.from_arpa": "needs such a file; tested in tests/training/test_counting.py",
    },
    "scaling": {
        **dict.fromkeys(
            (
                "model_type",
                "sizes",
                "flops",
                "learning_rate",
                "warmup_steps",
                "decay_ratio",
                "max_length",
                "per_device_train_batch_size",
                "eval_batches",
                "seeds",
            ),
            "reaches every run; tested in tests/training/scaling/test_grid.py",
        ),
        "tokenizer": "must be the one of the shards; tested with pretrain",
        **dict.fromkeys(("resamples", "budget", "minutes"), GRID),
    },
    "scaling show": dict.fromkeys(("markdown", "budget", "minutes"), GRID),
    "dist check": dict.fromkeys(
        ("processes", "backends", "largest_mb", "measure_s", "timeout_s"),
        "its results are times; tested in tests/training/parallel/test_check.py",
    ),
    "dist server": {
        "servers": "where parameters are, not what becomes of them",
        "engine": "the same on Ray; tested in tests/training/parallel/test_server.py",
    },
    "classify": {
        **dict.fromkeys(
            LOOPED, "handed to `training.run.train`, as `luban pretrain` does, where it is tested"
        ),
        "on_bad_row": "needs a bad row; tested in tests/tuning/test_classify.py",
    },
    "classify apply": {
        "batch": SPEED,
        **dict.fromkeys(
            ("data", "columns.text", "columns.second", "columns.label"),
            "read as `luban classify` does; tested in tests/tuning/test_classify.py",
        ),
    },
    "extend": dict.fromkeys(
        LOOPED, "handed to `training.run.train`, as `luban pretrain` does, where it is tested"
    ),
    "continual": dict.fromkeys(LOOPED, "handed to `luban sft`, where it is tested"),
    "eval passkey": dict.fromkeys(
        ("filler", "digits", "seed"),
        "makes other prompts, of which tiny models answer none; tested in tests/evaluation/test_passkey.py",
    ),
    "plan": {"architecture.context": "declared to readers of the model; costs nothing"},
    "data pairs": dict.fromkeys(
        ("model", "prefer", "samples", "temperature", "max_tokens", "turns"),
        "asks a model that ends its answers; tested in tests/alignment/test_checked_pairs.py",
    ),
    **{
        stage: {
            **dict.fromkeys(LOOPED, "handed to `training.run.train`, as `luban pretrain` does"),
            "on_bad_row": "needs a bad row; tested in tests/alignment/test_dpo.py",
            **(
                {"kind": "needs rows of steps; tested in tests/alignment/test_reward.py"}
                if stage == "reward"
                else {}
            ),
        }
        for stage in ("reward", "dpo")
    },
    "prefer": dict.fromkeys(
        (
            "models",
            "prompts",
            "mode",
            "again",
            "max_tokens",
            "temperature",
            "top_p",
            "seed",
            "host",
            "port",
            "browser",
        ),
        "serves a page until it is ended; tested in tests/serving/test_prefer.py",
    ),
    "translate": {
        "architecture.kv_heads": "as many as heads in these families; others are refused in tests/models",
        "length_penalty": LENGTHS,
    },
    "generate": {
        "length_penalty": LENGTHS,
        "top_logprobs": "needs an endpoint; tested in tests/inference/test_endpoint.py",
    },
    "chat": {
        "length_penalty": LENGTHS,
        "logprobs": "a chat shows words; `luban generate` shows probabilities",
        "ignore_eos": "for measuring speed; shared with generate, where it is tested",
    },
    "serve": {
        **dict.fromkeys(
            ("model", "name", "host", "port", "api_keys", "cors_origins", "access_log", "drain_s", *LIMITS),
            "a server runs until it is told to stop; tested in tests/serving",
        ),
        **dict.fromkeys(
            ENGINE, "when the engine does what, not what comes; tested in tests/inference/engine"
        ),
    },
    "inspect attention": dict.fromkeys(
        ("answer", "max_tokens"), "of encoder-decoders; tested in tests/inference/test_inspect.py"
    ),
    "profile": dict.fromkeys(
        (
            *(
                "model",
                "vocab",
                "per_device_train_batch_size",
                "max_length",
                "steps",
                "compile",
                "trace",
                "seed",
            ),
            *(f"architecture.{name}" for name in ("model_type", "layers", "dim", "heads", "kv_heads")),
            *(f"architecture.{name}" for name in ("hidden", "tied", "context")),
        ),
        "a profile is times of one run; tested in tests/training/test_profile.py",
    ),
    "doctor": dict.fromkeys(
        ("tune", "tune_compile"), "times of one run; tested in tests/test_doctor_tune.py"
    ),
    "fetch": {"name": NETWORK},
    "quickstart": dict.fromkeys(("model", "minutes"), "run as a whole in test_quickstart.py"),
}


@pytest.fixture(scope="module")
def places(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The workspace's paths by name, and a second one of what a setting may name."""
    import torch

    from luban.gguf import write
    from luban.models import hf
    from luban.tokenizers.files import load
    from luban.training.checkpoint import write_model_folder
    from tests import tiny

    root = tmp_path_factory.mktemp("others")
    words = f"tokenizer train --data {workspace.documents} --vocab 384 --pattern gpt2 --out {root / 'other'}"
    assert main(words.split()) == 0
    torch.manual_seed(9)
    write_model_folder(root / "other_model", tiny.llama(context=256), load(workspace.tokenizer))
    _write_masked(workspace, root)
    for name, folder in (("gguf", workspace.model), ("other_gguf", root / "other_model")):
        write.write(hf.load(folder), load(folder), root / f"{name}.gguf", "f32", name=name)
    (root / "prompts.txt").write_text("one\ntwo\n", encoding="utf-8")
    rows = workspace.rows.read_text("utf-8").splitlines()
    (root / "scores.jsonl").write_text(
        json.dumps({"id": json.loads(rows[0])["id"], "score": 1}) + "\n", encoding="utf-8"
    )
    (root / "table.csv").write_text("who,text\nme,hello\nyou,goodbye\n", encoding="utf-8")
    words = f"data prepare --data {workspace.raw} --holdout 20 --out {root / 'other_documents'}"
    assert main(words.split()) == 0
    (root / "questions.jsonl").write_text("\n".join(rows[5:25]) + "\n", encoding="utf-8")
    _write_labelled(workspace, root)
    write_pairs(root / "pairs.jsonl", 40, seed=1)
    write_pairs(root / "held-pairs.jsonl", 10, seed=2)
    write_pairs(root / "other-pairs.jsonl", 20, seed=3)
    _write_instructions(root)
    write_rows(root / "preferences.jsonl", [row | {"margin": 1} for row in short_and_long(20)])
    write_rows(root / "other-preferences.jsonl", short_and_long(14, seed=1))
    return {
        **{name: str(path) for name, path in vars(workspace).items()},
        **{name: str(root / f"{name}.jsonl") for name in ("pool", "log", "asked")},
        "reasons": "--templates arithmetic columns.question=source columns.answer=target columns.rationale=target",
        "other": str(root / "other"),
        "other_model": str(root / "other_model"),
        "other_documents": str(root / "other_documents"),
        "masked": str(root / "masked"),
        "other_masked": str(root / "other_masked"),
        **{name: str(root / f"{name}.gguf") for name in ("gguf", "other_gguf")},
        "scores": str(root / "scores.jsonl"),
        "csv": str(root / "table.csv"),
        "prompts": str(root / "prompts.txt"),
        "questions": str(root / "questions.jsonl"),
        "labelled": str(root / "labelled.jsonl"),
        "other_labelled": str(root / "other-labelled.jsonl"),
        "classifier": str(root / "classifier"),
        "other_classifier": str(root / "other-classifier"),
        "pairs": str(root / "pairs.jsonl"),
        "held_pairs": str(root / "held-pairs.jsonl"),
        "preferences": str(root / "preferences.jsonl"),
        "other_preferences": str(root / "other-preferences.jsonl"),
        "other_pairs": str(root / "other-pairs.jsonl"),
    }


def _write_instructions(root: Path) -> None:
    """Instructions of several kinds, in three files of other proportions, for `data balance`."""
    from luban.data.task_types import pattern_instructions

    for name, every in (("pool", 40), ("log", 90), ("asked", 130)):
        rows = [{"prompt": text, "completion": "yes", "type": kind} for text, kind in pattern_instructions()]
        lines = [json.dumps(row) for row in [*rows[::every], *rows[: 6 * (name == "log")]]]
        (root / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def _write_labelled(workspace: Workspace, root: Path) -> None:
    """Rows of one or two texts with labels, and two classifiers of nothing."""
    import torch

    from luban.models.classifier import Classifier
    from luban.tokenizers.files import load
    from luban.training.checkpoint import write_model_folder
    from tests import tiny

    kinds = ("prayer", "story", "story")
    for seed, name in enumerate(("labelled.jsonl", "other-labelled.jsonl")):
        rows = [
            {"text": f"the {n} of {kinds[n % 3]}{'s' * seed}", "second": f"{n} whales {seed}", "label": kinds[n % 3],
             "kind": "ab"[n % 2], "labels": ["long"][: n % 2]}
            for n in range(seed, 24)
        ]  # fmt: skip
        (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for seed, name in enumerate(("classifier", "other-classifier")):
        torch.manual_seed(seed)
        write_model_folder(root / name, Classifier(tiny.llama(), 2), load(workspace.tokenizer))


def _write_masked(workspace: Workspace, root: Path) -> None:
    """Two random BERTs over a WordPiece vocabulary, for `fill-mask`."""
    import torch

    from luban.tokenizers.files import load
    from luban.training.checkpoint import write_model_folder
    from tests import tiny

    words = (
        f"tokenizer train --data {workspace.documents} --type wordpiece --vocab 384 --out {root / 'pieces'}"
    )
    assert main(words.split()) == 0
    for seed, name in enumerate(("masked", "other_masked")):
        torch.manual_seed(seed)
        write_model_folder(root / name, tiny.bert(), load(root / "pieces"))


@pytest.fixture(scope="module")
def base_outcomes() -> dict[str, str]:
    """Outcomes of base runs, so that each is run once."""
    return {}


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_is_tried_or_excused(stage: str) -> None:
    names = {name for name, _, _ in settings.leaves(importlib.import_module(STAGES[stage].module).Config)}
    tried, excused = set(CHANGES.get(stage, {})), set(EXEMPT.get(stage, {}))
    assert tried | excused <= names, f"listed, but no setting of {stage}: {sorted((tried | excused) - names)}"
    assert names - tried - excused <= set(COMMON), f"settings of {stage} that nothing tries"


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage in CHANGES for name in CHANGES[stage]])
def test_a_setting_changes_the_result(
    stage: str,
    name: str,
    places: dict[str, str],
    base_outcomes: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    both, _, change = CHANGES[stage][name].rpartition("|")
    base = f"{stage} {BASE[stage]} {both}"
    changed = f"{base} {change}"
    if (stage, name) == ("data check", "data"):
        changed = base.replace("{rows}", "{questions}")
    if base not in base_outcomes:
        base_outcomes[base] = outcome(base, places, tmp_path_factory, capsys)
    assert outcome(changed, places, tmp_path_factory, capsys) != base_outcomes[base]


def outcome(
    words: str,
    places: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """A hash of all that a run leaves behind, times and rates left out."""
    out = tmp_path_factory.mktemp("run") / "out"
    assert main([*words.format(**places, out=out).split(), "--json"]) == 0, capsys.readouterr().err
    digest = hashlib.sha256()
    digest.update(json.dumps(timeless(json.loads(capsys.readouterr().out)), sort_keys=True).encode())
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        if path.name in ("index.html", "card.md", "recipe.yaml") or "stages" in path.relative_to(out).parts:
            continue  # they show settings, so a setting that nothing reads would change them too
        digest.update(str(path.relative_to(out)).encode())
        if path.name == "log.jsonl":
            lines = [timeless(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
            digest.update(json.dumps(lines).encode())
        elif path.name == "scaling.json":
            digest.update(json.dumps(timeless(json.loads(path.read_text("utf-8")))).encode())
        elif path.name not in (RUN_FILE, "curves.png", "state.json", "optimizer.pt", "random.pt"):
            digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.singledispatch
def timeless(value: Any) -> Any:
    """The value without what a clock decided."""
    return value


@timeless.register
def _(value: dict) -> Any:
    clocked = ("second", "tok_per_sec", "mfu", "memory_mb", "wait", "flop_per_s", "sha256", "energy")
    kept = {key: item for key, item in value.items() if not any(word in key for word in clocked)}
    return {key: timeless(item) for key, item in kept.items() if not isinstance(item, str) or "/" not in item}


@timeless.register
def _(value: list) -> Any:
    return [timeless(item) for item in value]


@pytest.mark.parametrize("stage", STAGES)
def test_setting_one_of_a_group_leaves_the_others_at_their_defaults(stage: str) -> None:
    config = importlib.import_module(STAGES[stage].module).Config
    for field in dataclasses.fields(config):
        if field.default_factory is not dataclasses.MISSING:
            made = field.default_factory()
            assert made == type(made)(), f"{field.name}: what `--help` shows is not what a run takes"
