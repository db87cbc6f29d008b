// SPDX-License-Identifier: Apache-2.0
//! Networks.

use std::net::IpAddr;
use std::sync::Arc;

use berth_api::Filters;
use berth_api::types::network::{
    Ipam, NetworkConnectBody, NetworkCreateBody, NetworkCreated, NetworkDisconnectBody, NetworksPruned,
};
use berth_domain::{Error, Result};
use berth_network::{AddressRange, Driver, NetworkRecord, NetworkRequest, NetworkView};
use http::StatusCode;

use crate::app::App;
use crate::http::call::invalid;
use crate::http::{Answer, Call, empty, json, no_content, ok};
use crate::wire::{self, labels_pass};

const PREDEFINED: [&str; 3] = ["bridge", "host", "none"];

fn passes(filters: &Filters, view: &NetworkView) -> Result<bool> {
    let record = &view.record;
    let predefined = PREDEFINED.contains(&record.name.as_str());
    let kind = filters.any("type", |t| if predefined { t == "builtin" } else { t == "custom" });
    let dangling = filters
        .bool("dangling")
        .map_err(invalid)?
        .is_none_or(|d| d == (!predefined && view.endpoints.is_empty()));
    Ok(kind
        && dangling
        && filters.any("name", |part| record.name.contains(part))
        && filters.any("id", |start| record.id.starts_with(start))
        && filters.is("driver", wire::network::driver(record.driver))
        && filters.is("scope", "local")
        && labels_pass(filters, &record.labels))
}

/// `GET /networks`
pub(crate) async fn network_list(app: Arc<App>, call: Call) -> Answer {
    let filters = call.known_filters(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
    for kind in filters.values("type") {
        if kind != "builtin" && kind != "custom" {
            return Err(Error::invalid(format!("invalid filter: 'type'='{kind}'")));
        }
    }
    let mut networks = Vec::new();
    for view in app.engine.network_list() {
        if passes(&filters, &view)? {
            // Lists do not show who is on a network.
            networks.push(wire::network::network(&view, false));
        }
    }
    call.ok(&networks)
}

/// `GET /networks/{id}`
pub(crate) async fn network_inspect(app: Arc<App>, call: Call) -> Answer {
    match call.query.get("scope") {
        "" | "local" => {}
        _ => return Err(Error::not_found(format!("network {} not found", call.name()))),
    }
    call.ok(&wire::network::network(&app.engine.network_inspect(call.name())?, true))
}

fn range(ipam: &Ipam) -> Result<Vec<AddressRange>> {
    let mut ranges = Vec::new();
    for config in ipam.config.iter().flatten() {
        let bad = |what: &str, value: &str, why: &str| {
            Error::invalid(format!("invalid network config:\ninvalid {what} {value}: invalid {why}"))
        };
        let address = |what: &str, text: &str| text.parse::<IpAddr>().map_err(|_| bad(what, text, "address"));
        let block = "CIDR block notation";
        ranges.push(AddressRange {
            subnet: config.subnet.parse().map_err(|_| bad("subnet", &config.subnet, block))?,
            range: match config.ip_range.as_str() {
                "" => None,
                text => Some(text.parse().map_err(|_| bad("ip-range", text, block))?),
            },
            gateway: match config.gateway.as_str() {
                "" => None,
                text => Some(address("gateway", text)?),
            },
            reserved: config
                .auxiliary_addresses
                .iter()
                .map(|(name, text)| Ok((name.clone(), address("auxiliary address", text)?)))
                .collect::<Result<_>>()?,
            chosen_by_user: true,
            gateway_chosen_by_user: !config.gateway.is_empty(),
        });
    }
    Ok(ranges)
}

/// `POST /networks/create`
pub(crate) async fn network_create(app: Arc<App>, mut call: Call) -> Answer {
    let body: NetworkCreateBody = call.json().await?.unwrap_or_default();
    if body.ingress || body.scope == "swarm" || body.driver == "overlay" {
        return super::swarm::not_a_manager(app, call).await;
    }
    let ipam = body.ipam.unwrap_or_default();
    if !matches!(ipam.driver.as_str(), "" | "default") {
        return Err(Error::not_implemented(format!("IPAM driver {:?} is not implemented", ipam.driver)));
    }
    let driver = match body.driver.as_str() {
        "" | "bridge" | "default" => Driver::Bridge,
        "macvlan" => Driver::Macvlan,
        "ipvlan" => Driver::Ipvlan,
        "host" => return Err(Error::forbidden("only one instance of \"host\" network is allowed")),
        "null" | "none" => return Err(Error::forbidden("only one instance of \"null\" network is allowed")),
        other => {
            return Err(Error::not_found(format!("plugin {other:?} not found")));
        }
    };
    let request = NetworkRequest {
        name: body.name,
        driver,
        ipv4: body.enable_ipv4.unwrap_or(true),
        ipv6: body.enable_ipv6.unwrap_or(false),
        internal: body.internal,
        attachable: body.attachable,
        ranges: range(&ipam)?,
        options: body.options,
        ipam_options: ipam.options.unwrap_or_default(),
        labels: body.labels,
        config_only: body.config_only,
        config_from: body.config_from.map(|c| c.network).filter(|name| !name.is_empty()),
    };
    let record = app.engine.network_create(request).await?;
    json(StatusCode::CREATED, &NetworkCreated { id: record.id.clone(), warning: String::new() })
}

/// `DELETE /networks/{id}`
pub(crate) async fn network_delete(app: Arc<App>, call: Call) -> Answer {
    app.engine.network_remove(call.name()).await?;
    no_content()
}

/// `POST /networks/prune`
pub(crate) async fn network_prune(app: Arc<App>, call: Call) -> Answer {
    let filters = call.known_filters(&["label", "label!", "until"])?;
    let until = match filters.values("until").next() {
        Some(text) => Some(wire::moment(text)?),
        None => None,
    };
    let wanted = move |record: &NetworkRecord| {
        labels_pass(&filters, &record.labels) && until.is_none_or(|t| record.created_at <= t)
    };
    let deleted = app.engine.network_prune(wanted).await?;
    ok(&NetworksPruned { networks_deleted: (!deleted.is_empty()).then_some(deleted) })
}

/// `POST /networks/{id}/connect`
pub(crate) async fn network_connect(app: Arc<App>, mut call: Call) -> Answer {
    let body: NetworkConnectBody = call.json().await?.unwrap_or_default();
    let settings = body.endpoint_config.unwrap_or_default();
    app.engine.network_connect(call.name(), &body.container, settings).await?;
    Ok(empty(StatusCode::OK))
}

/// `POST /networks/{id}/disconnect`
pub(crate) async fn network_disconnect(app: Arc<App>, mut call: Call) -> Answer {
    let body: NetworkDisconnectBody = call.json().await?.unwrap_or_default();
    app.engine.network_disconnect(call.name(), &body.container).await?;
    Ok(empty(StatusCode::OK))
}
