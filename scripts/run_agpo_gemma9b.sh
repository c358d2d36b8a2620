#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
exec bash "$(dirname "${BASH_SOURCE[0]}")/lib/train.sh" agpo gemma9b "$@"
