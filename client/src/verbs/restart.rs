// SPDX-License-Identifier: Apache-2.0
//! `ContainerRestart`.

use crate::cli::Context;
use crate::fail::Result;

pub(crate) use super::stopping::Args;

pub(crate) async fn run(context: &Context, args: Args) -> Result<u8> {
    super::stopping::run(context, args, "restart").await
}
