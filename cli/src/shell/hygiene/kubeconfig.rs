//! Reading a kubeconfig for its credentials.

use std::fs;

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::config::{AuthInfo, Kubeconfig};

use crate::{
    args::ClusterArgs,
    core::hygiene::logins::{self, Login},
    shell::cluster::concealed,
};

pub fn logins(args: &ClusterArgs, url: &str) -> Result<Vec<Login>> {
    let read = args.kubeconfig.as_ref().map_or_else(Kubeconfig::read, Kubeconfig::read_from).map_err(concealed);
    let mut config = read.context("the credentials of the kubeconfig")?;
    for info in config.auth_infos.iter_mut().filter_map(|info| info.auth_info.as_mut()) {
        embed(info)?;
    }
    Ok(logins::logins(&config, url))
}

/// Puts the certificate and the token of files in their place.
fn embed(info: &mut AuthInfo) -> Result<()> {
    if let (None, Some(file)) = (&info.client_certificate_data, &info.client_certificate) {
        info.client_certificate_data =
            Some(STANDARD.encode(fs::read(file).with_context(|| format!("reading {file}"))?));
    }
    if let (None, Some(file)) = (&info.token, &info.token_file) {
        let token = fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
        info.token = Some(token.trim().to_owned().into());
    }
    Ok(())
}
