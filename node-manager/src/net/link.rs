//! The two drivers: a macvlan on the node's interface, or a routed veth pair. Either
//! way the interface is *born* in the sandbox's namespace, so that killing the sandbox
//! at any moment leaves no link behind, and nothing waits for a move.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};

use grant::Driver;
use rustix::io::Errno;

use super::netlink::{Batch, Netlink, attribute, link_header, text};

/// Name of the interface inside.
pub const INSIDE_NAME: &str = "eth0";
/// The next hop of a routed sandbox: the node's end of the pair, whatever its address.
const ROUTED_NEXT_HOP: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

const UP: u32 = libc::IFF_UP as u32;
const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
// Second bytes of our MACs.
const INSIDE: u8 = 0x47;
const OUTSIDE: u8 = 0x48;
const MACVLAN_MODE: u16 = 1;
const MACVLAN_MODE_BRIDGE: u32 = 4;
const VETH_INFO_PEER: u16 = 1;
// IPV4_DEVCONF_*, which libc does not name.
const FORWARDING: u16 = 1;
const RP_FILTER: u16 = 8;
const INET_CONF: u16 = 1;
const ONLINK: u32 = 4;
const NEIGHBOUR_PERMANENT: u16 = 0x80;

/// One interface to make.
#[derive(Clone, Debug)]
pub struct Link {
    pub driver: Driver,
    /// Index of the node's interface (macvlan only).
    pub parent: u32,
    /// Name of the node's end (veth only): named after its owner.
    pub outside_name: String,
    pub address: Ipv4Addr,
    pub prefix_len: u8,
    pub gateway: Option<Ipv4Addr>,
    pub mtu: u16,
    /// Stays down until [`Link::open`].
    pub closed: bool,
}

/// MAC of the interface inside: from the address, so that everybody can compute it.
pub fn inside_mac(address: Ipv4Addr) -> [u8; 6] {
    mac(INSIDE, address)
}

fn mac(end: u8, address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, end, a, b, c, d]
}

impl Link {
    /// Makes the interface. `node` is a socket of the node's namespace, `namespace` names
    /// the sandbox's. `EBUSY`: the address is still in use on this node. (Of a closed macvlan
    /// that is found out when it is opened.)
    pub fn create(&self, node: &Netlink, namespace: impl AsFd) -> Result<(), Errno> {
        let namespace = (namespace.as_fd().as_raw_fd() as u32).to_ne_bytes();
        let ends = |name: &str, mac: [u8; 6]| {
            let mtu = attribute(libc::IFLA_MTU, &[&u32::from(self.mtu).to_ne_bytes()]);
            [text(libc::IFLA_IFNAME, name), attribute(libc::IFLA_ADDRESS, &[&mac]), mtu].concat()
        };
        let inside = ends(INSIDE_NAME, inside_mac(self.address));
        let inside = [inside, attribute(libc::IFLA_NET_NS_FD, &[&namespace])].concat();
        let kind = |kind: &str, data: Vec<u8>| {
            let parts = [text(libc::IFLA_INFO_KIND, kind), attribute(libc::IFLA_INFO_DATA, &[&data])];
            attribute(libc::IFLA_LINKINFO, &[&parts.concat()])
        };
        let attributes = match self.driver {
            Driver::Macvlan => {
                let mode = attribute(MACVLAN_MODE, &[&MACVLAN_MODE_BRIDGE.to_ne_bytes()]);
                [inside, attribute(libc::IFLA_LINK, &[&self.parent.to_ne_bytes()]), kind("macvlan", mode)]
            }
            Driver::Veth => {
                // A pair's end cannot be up before it has its other end.
                let peer = attribute(VETH_INFO_PEER, &[&link_header(0, 0, 0), &inside]);
                [ends(&self.outside_name, mac(OUTSIDE, self.address)), kind("veth", peer), Vec::new()]
            }
        };
        // A macvlan is the inside by itself; of a pair this is the node's end.
        let up = if self.closed && self.driver == Driver::Macvlan { 0 } else { UP };
        node.run(&Batch::of(libc::RTM_NEWLINK, CREATE, &link_header(0, up, up), &attributes))?;
        if self.driver == Driver::Veth { self.route_on_node(node) } else { Ok(()) }
    }

    /// The node's end of a pair: forwards, refuses any source but the sandbox's address,
    /// and knows its neighbour for good. All of it goes when the pair goes.
    fn route_on_node(&self, node: &Netlink) -> Result<(), Errno> {
        let index = node.index_of(&self.outside_name)?.ok_or(Errno::NODEV)?;
        let on = 1u32.to_ne_bytes();
        let switches = [attribute(FORWARDING, &[&on]), attribute(RP_FILTER, &[&on])].concat();
        let inet = attribute(libc::AF_INET as u16, &[&attribute(INET_CONF, &[&switches])]);
        let inet = attribute(libc::IFLA_AF_SPEC, &[&inet]);
        let mut batch = Batch::of(libc::RTM_SETLINK, 0, &link_header(index, 0, 0), &[inet]);
        add_neighbour(&mut batch, index, self.address, inside_mac(self.address));
        add_route(&mut batch, index, (self.address, 32), None, 0);
        node.run(&batch)
    }

    /// Gives the interface its address and, unless it is closed, opens it; `inside` is a socket of
    /// the sandbox's namespace. Links that are neither `lo` nor ours are removed.
    pub fn configure(&self, inside: &Netlink) -> Result<(), Errno> {
        let links = inside.links()?;
        let find = |wanted: &str| links.iter().find(|(_, name)| name == wanted).map(|&(index, _)| index);
        let index = find(INSIDE_NAME).ok_or(Errno::NODEV)?;
        let mut strays = Batch::default();
        for &(stray, _) in links.iter().filter(|(_, name)| name != INSIDE_NAME && name != "lo") {
            strays.request(libc::RTM_DELLINK, 0, &link_header(stray, 0, 0), &[]);
        }
        // The kernel keeps a few of its own (tunnels without an end); they stay down.
        let _ = inside.run(&strays);

        let mut batch = Batch::default();
        batch.request(libc::RTM_SETLINK, 0, &link_header(find("lo").unwrap_or(1), UP, UP), &[]);
        let flags = if self.driver == Driver::Veth { libc::IFA_F_NOPREFIXROUTE } else { 0 };
        let fixed = address_header(self.prefix_len, index);
        let address =
            [libc::IFA_LOCAL, libc::IFA_ADDRESS].map(|kind| attribute(kind, &[&self.address.octets()]));
        let flags = attribute(libc::IFA_FLAGS, &[&flags.to_ne_bytes()]);
        batch.request(libc::RTM_NEWADDR, CREATE, &fixed, &[address.concat(), flags]);
        if !self.closed {
            self.open(&mut batch, index);
        }
        inside.run(&batch)
    }

    /// Lets traffic through: up, and with its routes, which an interface that is down cannot have.
    pub fn open(&self, batch: &mut Batch, index: u32) {
        batch.request(libc::RTM_SETLINK, 0, &link_header(index, UP, UP), &[]);
        if self.driver == Driver::Veth {
            add_neighbour(batch, index, ROUTED_NEXT_HOP, mac(OUTSIDE, self.address));
            add_route(batch, index, (Ipv4Addr::UNSPECIFIED, 0), Some(ROUTED_NEXT_HOP), ONLINK);
        } else if let Some(gateway) = self.gateway {
            add_route(batch, index, (Ipv4Addr::UNSPECIFIED, 0), Some(gateway), 0);
        }
    }

    /// Takes the address away: whoever still holds the namespace can no longer speak with it.
    pub fn withdraw(&self, inside: &Netlink, index: u32) -> Result<(), Errno> {
        let local = attribute(libc::IFA_LOCAL, &[&self.address.octets()]);
        inside.run(&Batch::of(libc::RTM_DELADDR, 0, &address_header(self.prefix_len, index), &[local]))
    }
}

/// The macvlan of a sandbox that is gone, in a namespace that somebody may still hold.
pub struct HeldLink(pub Netlink, pub u32);

impl HeldLink {
    /// Frees the MAC, which is taken on the node as long as the link exists, for the next holder
    /// of the address. The kernel waits for its readers meanwhile (some 10 ms): nobody should.
    pub fn free_mac(self) -> Result<(), Errno> {
        let [a, b, c, d] = std::process::id().to_be_bytes();
        let mac = attribute(libc::IFLA_ADDRESS, &[&[0x02, 0x49, a, b, c, d]]);
        self.0.run(&Batch::of(libc::RTM_SETLINK, 0, &link_header(self.1, 0, 0), &[mac]))
    }
}

/// Removes a link of the node by name; absent is as good.
pub fn remove(node: &Netlink, name: &str) -> Result<(), Errno> {
    let Some(index) = node.index_of(name)? else { return Ok(()) };
    let gone = |errno| if errno == Errno::NODEV { Ok(()) } else { Err(errno) };
    node.run(&Batch::of(libc::RTM_DELLINK, 0, &link_header(index, 0, 0), &[])).or_else(gone)
}

/// `struct ifaddrmsg`.
fn address_header(prefix_len: u8, index: u32) -> [u8; 8] {
    let mut header = [libc::AF_INET as u8, prefix_len, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

/// `struct rtmsg` and attributes.
fn add_route(batch: &mut Batch, index: u32, to: (Ipv4Addr, u8), via: Option<Ipv4Addr>, flags: u32) {
    let scope = if via.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
    let mut fixed =
        [libc::AF_INET as u8, to.1, 0, 0, 0, libc::RTPROT_STATIC, scope, libc::RTN_UNICAST, 0, 0, 0, 0];
    fixed[4] = libc::RT_TABLE_MAIN;
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    let mut attributes = vec![attribute(libc::RTA_OIF, &[&index.to_ne_bytes()])];
    attributes.extend((to.1 > 0).then(|| attribute(libc::RTA_DST, &[&to.0.octets()])));
    attributes.extend(via.map(|via| attribute(libc::RTA_GATEWAY, &[&via.octets()])));
    batch.request(libc::RTM_NEWROUTE, CREATE, &fixed, &attributes);
}

/// `struct ndmsg` and attributes. Permanent entries do not count against the table's limit.
fn add_neighbour(batch: &mut Batch, index: u32, address: Ipv4Addr, mac: [u8; 6]) {
    let mut fixed = [0; 12];
    fixed[0] = libc::AF_INET as u8;
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&NEIGHBOUR_PERMANENT.to_ne_bytes());
    let replace = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
    let attributes = [attribute(libc::NDA_DST, &[&address.octets()]), attribute(libc::NDA_LLADDR, &[&mac])];
    batch.request(libc::RTM_NEWNEIGH, replace, &fixed, &attributes);
}
