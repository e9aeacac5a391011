"""Nova virt driver of the development cloud.

Nova's own FakeDriver, plus: what a server was booted with is written to
<state_path>/servers/<uuid>/ (server.json, user_data, files/...), and each
event is a line of JSON in its file "events": spawn, power_on, power_off,
reboot, attach_volume, detach_volume, extend_volume.  A test can start and stop
a process in the place of the server by them; the directory goes with it.
"""
import base64
import json
import os
import shutil
import time

from oslo_log import log as logging

import nova.conf
from nova.virt import fake

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)


class DevDriver(fake.FakeDriver):
    capabilities = dict(fake.FakeDriver.capabilities,
                        supports_migrate_to_same_host=True)

    def _dir(self, instance):
        return os.path.join(CONF.state_path, 'servers', instance.uuid)

    def _event(self, event, instance, **extra):
        d = self._dir(instance)
        try:
            os.makedirs(d, exist_ok=True)
            with open(os.path.join(d, 'events'), 'a') as f:
                f.write(json.dumps(dict(extra, event=event, host=CONF.host,
                                        at=time.time())) + '\n')
        except Exception:
            LOG.exception('server event')

    def spawn(self, context, instance, image_meta, injected_files,
              admin_password, allocations, network_info=None,
              block_device_info=None, power_on=True, accel_info=None):
        super().spawn(context, instance, image_meta, injected_files,
                      admin_password, allocations, network_info,
                      block_device_info, power_on, accel_info)
        d = self._dir(instance)
        os.makedirs(d, exist_ok=True)
        if instance.user_data:
            with open(os.path.join(d, 'user_data'), 'wb') as f:
                f.write(base64.b64decode(instance.user_data))
        for path, data in injected_files or []:
            p = os.path.normpath(os.path.join(d, 'files', path.lstrip('/')))
            if not p.startswith(os.path.join(d, 'files') + '/'):
                continue
            os.makedirs(os.path.dirname(p), exist_ok=True)
            with open(p, 'wb') as f:
                f.write(data if isinstance(data, bytes) else data.encode())
        doc = {
            'id': instance.uuid,
            'name': instance.display_name,
            'project_id': instance.project_id,
            'host': CONF.host,
            'availability_zone': instance.availability_zone,
            'flavor': {'name': instance.flavor.name,
                       'ram': instance.flavor.memory_mb,
                       'vcpus': instance.flavor.vcpus,
                       'disk': instance.flavor.root_gb},
            'config_drive': bool(instance.config_drive),
            'key_name': instance.key_name,
            'metadata': dict(instance.metadata or {}),
            'ports': [{'id': v['id'], 'mac': v['address'],
                       'network': v['network']['label'],
                       'fixed_ips': [i['address'] for i in v.fixed_ips()]}
                      # finish_migration() passes no network_info
                      for v in network_info or instance.get_network_info()],
            'volumes': [b.get('mount_device') for b in
                        (block_device_info or {}).get(
                            'block_device_mapping', [])],
        }
        tmp = os.path.join(d, '.server.json')
        with open(tmp, 'w') as f:
            json.dump(doc, f, indent=1)
        os.rename(tmp, os.path.join(d, 'server.json'))
        self._event('spawn', instance)

    def destroy(self, context, instance, network_info,
                block_device_info=None, destroy_disks=True,
                destroy_secrets=True):
        super().destroy(context, instance, network_info, block_device_info,
                        destroy_disks, destroy_secrets)
        # Else none of its ports could be attached to another server here.
        for vif in network_info or []:
            self._interfaces.pop(vif['id'], None)
        shutil.rmtree(self._dir(instance), ignore_errors=True)

    def confirm_migration(self, context, migration, instance, network_info):
        if migration.source_compute != migration.dest_compute:
            # The server goes on elsewhere: only forget it on this host.
            super().destroy(context, instance, network_info)

    def power_off(self, instance, timeout=0, retry_interval=0):
        super().power_off(instance, timeout, retry_interval)
        self._event('power_off', instance)

    def power_on(self, context, instance, network_info,
                 block_device_info=None, accel_info=None):
        super().power_on(context, instance, network_info, block_device_info,
                         accel_info)
        self._event('power_on', instance)

    def reboot(self, context, instance, network_info, reboot_type,
               block_device_info=None, bad_volumes_callback=None,
               accel_info=None):
        super().reboot(context, instance, network_info, reboot_type,
                       block_device_info, bad_volumes_callback, accel_info)
        self._event('reboot', instance, type=reboot_type)

    def attach_volume(self, context, connection_info, instance, mountpoint,
                      disk_bus=None, device_type=None, encryption=None):
        super().attach_volume(context, connection_info, instance, mountpoint,
                              disk_bus, device_type, encryption)
        self._event('attach_volume', instance, device=mountpoint,
                    path=connection_info.get('data', {}).get('device_path'))

    def detach_volume(self, context, connection_info, instance, mountpoint,
                      encryption=None):
        super().detach_volume(context, connection_info, instance, mountpoint,
                              encryption)
        self._event('detach_volume', instance, device=mountpoint)

    def extend_volume(self, context, connection_info, instance,
                      requested_size):
        super().extend_volume(context, connection_info, instance,
                              requested_size)
        self._event('extend_volume', instance, size=requested_size)
