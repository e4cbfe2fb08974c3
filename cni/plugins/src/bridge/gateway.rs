//! What follows from the addresses that IPAM gave: the gateways that the bridge holds, and the
//! default routes. Pure.

use std::net::IpAddr;

use cni_types::{AddResult, Route};
use ipnet::IpNet;

use super::conf::Conf;
use crate::fault::{Fault, Result};

fn first_of(net: IpNet) -> IpAddr {
    match net.network() {
        IpAddr::V4(v4) => std::net::Ipv4Addr::from(u32::from(v4).saturating_add(1)).into(),
        IpAddr::V6(v6) => std::net::Ipv6Addr::from(u128::from(v6).saturating_add(1)).into(),
    }
}

/// Fills in gateways and default routes of `result`; returns the addresses of the bridge.
pub(super) fn plan(conf: &Conf, result: &mut AddResult) -> Result<Vec<IpNet>> {
    let mut gateways = Vec::new();
    for config in &mut result.ips {
        // The container's end is the third interface of the result.
        config.interface = Some(2);
        let v4 = config.address.addr().is_ipv4();
        if conf.gateway {
            let gateway = *config.gateway.get_or_insert_with(|| first_of(config.address));
            let net = IpNet::new(gateway, config.address.prefix_len())
                .map_err(|error| Fault::internal(format!("gateway {gateway}: {error}")))?;
            if !gateways.contains(&net) {
                gateways.push(net);
            }
        }
        if conf.default_gateway {
            let is_default = |route: &&mut Route| route.dst.prefix_len() == 0 && route.dst.addr().is_ipv4() == v4;
            if let Some(route) = result.routes.iter_mut().find(is_default) {
                route.gw = route.gw.or(config.gateway);
                continue;
            }
            let zero: IpAddr = if v4 { [0u8; 4].into() } else { [0u8; 16].into() };
            let dst = IpNet::new(zero, 0).map_err(|error| Fault::internal(error.to_string()))?;
            result.routes.push(Route {
                dst,
                gw: config.gateway,
                mtu: None,
                advmss: None,
                priority: None,
                table: None,
                scope: None,
            });
        }
    }
    Ok(gateways)
}

/// The first gateway of the family of `ip`, which a route without one goes by.
pub(super) fn of_family(result: &AddResult, ip: IpAddr) -> Option<IpAddr> {
    result
        .ips
        .iter()
        .filter_map(|config| config.gateway)
        .find(|gateway| gateway.is_ipv4() == ip.is_ipv4())
}
