#!/usr/bin/python3
"""provision.py DIRECTORY PORT identity|resources: fills the cloud with what
tests need; what is there already stays.  PORT is the first of up.sh's."""
import os
import sys

import openstack

state, base, what = sys.argv[1:4]
pw = os.environ['GROVE_DEVCLOUD_PASSWORD']
base = int(base)
IP = '127.0.0.1'
AUTH = 'http://%s:%d/v3' % (IP, base)
TENANTS = {'alpha': 'alice', 'beta': 'bob'}
SERVICES = ['glance', 'placement', 'nova', 'cinder', 'neutron', 'dbaas']
# name, type, port after the first, path
ENDPOINTS = [
    ('nova', 'compute', 1, '/v2.1'),
    ('placement', 'placement', 2, ''),
    ('cinderv3', 'volumev3', 3, '/v3/%(project_id)s'),
    ('neutron', 'network', 4, ''),
    ('glance', 'image', 5, ''),
    ('grove', 'database', 6, '/v1.0/%(project_id)s'),
]
# name, MiB of memory, vcpus, GiB of root disk
FLAVORS = [('db.tiny', 512, 1, 5), ('db.small', 1024, 1, 10),
           ('db.medium', 2048, 2, 10), ('db.large', 4096, 4, 20)]


def connect(user, project):
    return openstack.connect(
        auth_url=AUTH, username=user, password=pw, project_name=project,
        user_domain_name='Default', project_domain_name='Default',
        region_name='RegionOne', identity_api_version='3',
        load_yaml_config=False, load_envvars=False, app_name='provision')


def write(name, text, mode=0o644):
    path = os.path.join(state, name)
    with open(path, 'w') as f:
        f.write(text)
    os.chmod(path, mode)


def rc(user, project):
    return ''.join('export %s=%s\n' % kv for kv in [
        ('OS_AUTH_URL', AUTH), ('OS_IDENTITY_API_VERSION', '3'),
        ('OS_USERNAME', user), ('OS_PASSWORD', pw),
        ('OS_PROJECT_NAME', project), ('OS_USER_DOMAIN_NAME', 'Default'),
        ('OS_PROJECT_DOMAIN_NAME', 'Default'),
        ('OS_REGION_NAME', 'RegionOne'), ('no_proxy', IP)])


def identity():
    c = connect('admin', 'admin')
    ident = c.identity
    projects = {p.name: p for p in ident.projects()}
    users = {u.name: u for u in ident.users()}
    roles = {r.name: r for r in ident.roles()}
    for name in ['service'] + list(TENANTS):
        if name not in projects:
            projects[name] = ident.create_project(name=name,
                                                  domain_id='default')
    for r in ['service', 'creator']:
        if r not in roles:
            roles[r] = ident.create_role(name=r)

    def user(name, project, *rs):
        if name not in users:
            users[name] = ident.create_user(
                name=name, password=pw, domain_id='default',
                default_project_id=projects[project].id)
        for r in rs:
            ident.assign_project_role_to_user(projects[project], users[name],
                                              roles[r])
    for s in SERVICES:
        user(s, 'service', 'admin', 'service')
    for p, u in TENANTS.items():
        user(u, p, 'member', 'creator')
        # the admin sees into both, as an operator does
        ident.assign_project_role_to_user(projects[p], users['admin'],
                                          roles['admin'])
    have = {s.type: s for s in ident.services()}
    urls = {(e.service_id, e.interface): e for e in ident.endpoints()}
    for name, typ, port, path in ENDPOINTS:
        if typ not in have:
            have[typ] = ident.create_service(name=name, type=typ)
        for i in ('public', 'internal', 'admin'):
            if (have[typ].id, i) not in urls:
                ident.create_endpoint(
                    service_id=have[typ].id, interface=i,
                    url='http://%s:%d%s' % (IP, base + port, path),
                    region_id='RegionOne')
    accounts = [('admin', 'admin', 'admin'), ('dbaas', 'dbaas', 'service')]
    accounts += [(u, u, p) for p, u in TENANTS.items()]
    clouds = 'clouds:\n'
    for label, u, p in accounts:
        write('openrc' if label == 'admin' else 'openrc-' + label, rc(u, p),
              0o600)
        clouds += ('  dev-%s:\n    auth:\n      auth_url: %s\n'
                   '      username: %s\n      password: %s\n'
                   '      project_name: %s\n'
                   '      user_domain_name: Default\n'
                   '      project_domain_name: Default\n'
                   '    region_name: RegionOne\n'
                   '    identity_api_version: 3\n') % (label, AUTH, u, pw, p)
    write('clouds.yaml', clouds, 0o600)


def resources():
    c = connect('admin', 'admin')
    projects = {p.name: p for p in c.identity.projects()}
    flavors = {f.name for f in c.compute.flavors(get_extra_specs=False)}
    for i, (name, ram, cpus, disk) in enumerate(FLAVORS):
        if name not in flavors:
            c.compute.create_flavor(name=name, ram=ram, vcpus=cpus, disk=disk,
                                    id=str(i + 1), is_public=True)
    # 1 MiB of zeros is image enough for servers that do not exist.
    images = {i.name for i in c.image.images()}
    for name in ('dbaas-guest', 'tiny'):
        if name not in images:
            path = os.path.join(state, 'tiny.img')
            with open(path, 'wb') as f:
                f.write(b'\0' * (1 << 20))
            c.create_image(name, filename=path, disk_format='raw',
                           container_format='bare', visibility='public',
                           wait=True, min_disk=0, tags=['dbaas', 'redis'],
                           validate_checksum=False)
    nets = {n.name: n for n in c.network.networks()}
    if 'public' not in nets:
        n = c.network.create_network(
            name='public', is_router_external=True,
            provider_network_type='flat', provider_physical_network='public')
        c.network.create_subnet(
            network_id=n.id, name='public', ip_version=4,
            cidr='203.0.113.0/24', is_dhcp_enabled=False)
    for name, cidr, shared in [('private', '10.20.0.0/16', True),
                               ('dbaas-mgmt', '10.30.0.0/16', True)]:
        if name not in nets:
            n = c.network.create_network(name=name, is_shared=shared)
            c.network.create_subnet(network_id=n.id, name=name, ip_version=4,
                                    cidr=cidr)
    if not list(c.network.routers(name='edge')):
        r = c.network.create_router(name='edge', external_gateway_info={
            'network_id': c.network.find_network('public').id})
        for name in ('private', 'dbaas-mgmt'):
            sub = next(c.network.subnets(name=name))
            c.network.add_interface_to_router(r, subnet_id=sub.id)
    types = {t.name for t in c.block_storage.types()}
    for t in ('standard', 'fast'):
        if t not in types:
            c.block_storage.create_type(name=t)
    for p in ['admin', 'service'] + list(TENANTS):
        big = p == 'service'    # where the DBaaS keeps its servers
        c.set_compute_quotas(projects[p].id, instances=500 if big else 20,
                             cores=500 if big else 40,
                             ram=900000 if big else 100000,
                             server_groups=100, server_group_members=100)
        c.set_volume_quotas(projects[p].id, volumes=500 if big else 20,
                            gigabytes=20000 if big else 500)
    # The second host is also availability zone az2; the rest stay in "nova".
    aggs = {a.name: a for a in c.compute.aggregates()}
    if 'az2' not in aggs:
        a = c.compute.create_aggregate(name='az2', availability_zone='az2')
        aggs['az2'] = a
    hosts = aggs['az2'].hosts or []
    svc = {s.host for s in c.compute.services(binary='nova-compute')}
    if 'cmp2' in svc and 'cmp2' not in hosts:
        c.compute.add_host_to_aggregate(aggs['az2'], 'cmp2')


globals()[what]()
