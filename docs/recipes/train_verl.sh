#!/bin/sh
# Train on a model's own reward with verl's RLOO: the objective of `endorm ppo`, on many GPUs.
#
#     sh docs/recipes/train_verl.sh MODEL DATA.parquet OUT [more overrides]
#
# DATA has verl's columns: prompt (messages), data_source, reward_model. docs/engines.md goes through
# the options; tests compose them with verl 0.9's own configuration. MODEL must have a chat template.
set -eu
model=$1 data=$2 out=$3
shift 3

python -m verl.trainer.main_ppo \
  data.train_files="$data" \
  data.val_files="$data" \
  data.train_batch_size=128 \
  data.max_prompt_length=1024 \
  data.max_response_length=1024 \
  data.truncation=error \
  actor_rollout_ref.model.path="$model" \
  algorithm.adv_estimator=rloo \
  algorithm.use_kl_in_reward=true \
  algorithm.kl_penalty=kl \
  algorithm.kl_ctrl.type=fixed \
  algorithm.kl_ctrl.kl_coef=0.1 \
  actor_rollout_ref.actor.use_kl_loss=false \
  actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum \
  actor_rollout_ref.actor.entropy_coeff=0 \
  actor_rollout_ref.actor.ppo_epochs=1 \
  actor_rollout_ref.actor.ppo_mini_batch_size=128 \
  actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4 \
  actor_rollout_ref.actor.optim.lr=1e-6 \
  actor_rollout_ref.actor.optim.weight_decay=0 \
  actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=8 \
  actor_rollout_ref.rollout.name=vllm \
  actor_rollout_ref.rollout.n=4 \
  actor_rollout_ref.rollout.temperature=1.0 \
  actor_rollout_ref.rollout.top_p=1.0 \
  actor_rollout_ref.rollout.top_k=-1 \
  actor_rollout_ref.rollout.tensor_model_parallel_size=1 \
  actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8 \
  reward.num_workers=1 \
  reward.reward_manager.source=importlib \
  reward.reward_manager.name=EndogenousRewardManager \
  reward.reward_manager.module.path=pkg://llm_bridge.plugins.verl \
  +ray_kwargs.ray_init.runtime_env.env_vars.ENDORM_MODEL="$model" \
  trainer.total_training_steps=100 \
  trainer.logger=console \
  trainer.default_local_dir="$out" \
  "$@"
