# SPDX-License-Identifier: Apache-2.0
"""Every private name of verl 0.9.1 that AGPO uses, one file per extension point. ``tests/contracts`` tests each.

===================  ==============================================  ================================================
file                 verl                                            use
===================  ==============================================  ================================================
``agent_loop``       ``trainer.ppo.v1.agent_loop_tq``                base classes of our rollout; keys of rows
``updates``          ``workers.engine.base.BaseEngine.train_batch``  step size, schedule over tokens, group losses
``actor_weights``    ``workers.engine_workers``, ``engine.fsdp``     the average of the weights on every rank
``row_order``        ``utils.seqlen_balancing``, ``KVBatchMeta``     mini-batches that do not depend on the ranks
``temperature``      worker groups of the trainer                    log-probs at each response's own temperature
``sockets``          ``bucketed_weight_transfer``                    two runs at a time on one machine
``losses``           ``workers.utils.losses``, ``core_algos``        verl's losses and its GRPO advantage
``configs``          ``utils.config``, ``utils.import_utils``        config objects, reward functions by path
``chat``             ``utils.tokenizer``, ``tools.tool_registry``    prompts as the rollout builds and the filter counts
===================  ==============================================  ================================================

``version`` names the tested verl, ``import_hooks`` waits for verl's modules, ``patching`` is the only way in which a
function is replaced.
"""
