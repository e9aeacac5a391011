#!/usr/bin/env bash
# Starts a small real OpenStack on loopback: Keystone, Nova, Cinder, Neutron, Glance and Placement of Debian 12's packages.
# What lies below their APIs is not there: nothing boots, no volume holds data, no packet goes through a port. What runs
# already is left running, what is missing is made, so it may be run again at any time. Needs root.
#
#   deploy/devcloud/up.sh DIRECTORY
#
# GROVE_DEVCLOUD_PORT is the first of the sixteen ports that it listens on (default: the first sixteen that are free, and
# those of DIRECTORY when it was started there before); GROVE_DEVCLOUD_COMPUTES the number of hosts for servers (3).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/dev/lib.sh
. "$here/../dev/lib.sh"
# shellcheck source=deploy/devcloud/processes.sh
. "$here/processes.sh"

[ $# = 1 ] || die "usage: $0 DIRECTORY"
[ "$(id -u)" = 0 ] || die "the OpenStack of the tests needs root"
mkdir -p "$1"
state=$(cd "$1" && pwd)
computes=${GROVE_DEVCLOUD_COMPUTES:-3}
ip=127.0.0.1
py=/usr/bin/python3
export LC_ALL=C.UTF-8 no_proxy=$ip,localhost
unset PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE http_proxy https_proxy HTTP_PROXY HTTPS_PROXY
began=$SECONDS
note() { printf '[%4d s] %s\n' $((SECONDS - began)) "$*"; }

# choose_ports sets the ports of all services, and the password of all accounts; those of the last start, if there was one.
choose_ports() {
	local tries offset taken
	if [ ! -e "$state/settings" ]; then
		base=${GROVE_DEVCLOUD_PORT:-}
		for ((tries = 0; tries < 50 && ${#base} == 0; tries++)); do
			base=$((20000 + RANDOM % 12000))
			for ((offset = 0; offset < 16; offset++)); do
				taken=$((base + offset))
				if (: <"/dev/tcp/$ip/$taken") 2>/dev/null; then base= && break; fi
			done
		done
		[ -n "$base" ] || die "found no sixteen free ports in a row: set GROVE_DEVCLOUD_PORT"
		(umask 077 && printf 'base=%s\npassword=%s\n' "$base" "$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')" >"$state/settings")
	fi
	# shellcheck source=/dev/null
	. "$state/settings"
	keystone=$base nova=$((base + 1)) placement=$((base + 2)) cinder=$((base + 3)) neutron=$((base + 4)) glance=$((base + 5))
	database=$((base + 6)) # where a groved may listen: the catalog says so
	mariadb=$((base + 8)) rabbitmq=$((base + 9)) epmd=$((base + 10)) dist=$((base + 11)) memcached=$((base + 12))
}

# render writes the services' configuration from conf/.
render() {
	local template n
	mkdir -p "$state"/{etc,log,run,lock,py,data/{nova,cinder,glance/images,neutron,mariadb,rabbit}}
	chmod 755 "$state" "$state"/{run,log,data}
	cp -r "$here"/py/. "$state/py/"
	for template in "$here"/conf/*; do
		sed -e "s|@S@|$state|g; s|@PW@|$password|g; s|@IP@|$ip|g; s|@DB@|mysql+pymysql://openstack:$password@$ip:$mariadb|g" \
			-e "s|@RABBIT@|rabbit://openstack:$password@$ip:$rabbitmq/|g; s|@DBPORT@|$mariadb|g; s|@MEMCACHED@|$memcached|g" \
			-e "s|@KEYSTONE@|$keystone|g; s|@NOVA@|$nova|g; s|@CINDER@|$cinder|g; s|@NEUTRON@|$neutron|g; s|@GLANCE@|$glance|g" \
			"$template" >"$state/etc/$(basename "$template")"
	done
	chmod 600 "$state"/etc/*.conf
	chmod 644 "$state/etc/mariadb.cnf"
	for ((n = 1; n <= computes; n++)); do
		printf '[DEFAULT]\nhost = cmp%s\n' "$n" >"$state/etc/nova-cmp$n.conf"
	done
}

# python starts a service of OpenStack: python NAME MODULE:FUNCTION ARGUMENT...
python() {
	local name=$1 entry=$2
	shift 2
	start "$name" env PYTHONPATH="$state/py" HOME="$state" "$py" "$state/py/launch.py" "$name" "$entry" "$@"
}

# wsgi starts one that is made for a web server: wsgi NAME PORT FILE VARIABLE...
wsgi() {
	local name=$1 port=$2 file=$3
	shift 3
	start "$name" env HOME="$state" "$@" uwsgi-core --plugin python3 --http-socket "$ip:$port" --wsgi-file "$file" \
		--master --processes 1 --threads 8 --lazy-apps --need-app --die-on-term --buffer-size 65535 --thunder-lock \
		--disable-logging --add-header "Connection: close"
}

# once runs a command to its end: once LOG COMMAND...
once() {
	local name=$1
	shift
	env PYTHONPATH="$state/py" HOME="$state" "$@" >>"$state/log/$name.log" 2>&1 || broken "$name" "$1 failed"
}

provision() { GROVE_DEVCLOUD_PASSWORD=$password once provision "$py" "$here/provision.py" "$state" "$base" "$1"; }
sql() { mariadb --no-defaults --socket="$state/run/mariadb/mysqld.sock" -uroot "$@"; }
answers() { curl -s -o /dev/null --noproxy '*' --max-time 5 "http://$ip:$1/"; }
listens() { (: <"/dev/tcp/$ip/$1") 2>/dev/null; }

start_stores() {
	local d
	chown -R mysql:mysql "$state/data/mariadb"
	touch "$state/log/mariadb.log"
	mkdir -p "$state/run/mariadb"
	chown mysql "$state/log/mariadb.log" "$state/run/mariadb"
	[ -d "$state/data/mariadb/mysql" ] ||
		once mariadb-install mariadb-install-db --no-defaults --user=mysql --datadir="$state/data/mariadb" --skip-test-db \
			--auth-root-authentication-method=socket
	start mariadb mariadbd --defaults-file="$state/etc/mariadb.cnf" --user=mysql
	start epmd epmd -address "$ip" -port "$epmd"
	await epmd 30 listens "$epmd"
	start rabbitmq env HOME="$state/data/rabbit" ERL_EPMD_ADDRESS=$ip ERL_EPMD_PORT="$epmd" RABBITMQ_DIST_PORT="$dist" \
		RABBITMQ_NODENAME=grovedevcloud@localhost RABBITMQ_NODE_IP_ADDRESS=$ip RABBITMQ_NODE_PORT="$rabbitmq" \
		RABBITMQ_CONFIG_FILE="$state/etc/rabbitmq.conf" RABBITMQ_CONF_ENV_FILE=/dev/null \
		RABBITMQ_ENABLED_PLUGINS_FILE="$state/etc/enabled_plugins" RABBITMQ_MNESIA_BASE="$state/data/rabbit/mnesia" \
		RABBITMQ_LOG_BASE="$state/log/rabbit" RABBITMQ_PID_FILE="$state/run/rabbit-beam" \
		RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none' \
		/usr/lib/rabbitmq/bin/rabbitmq-server
	start memcached memcached -u nobody -l $ip -p "$memcached" -m 32 -c 512 -t 1
	await mariadb 60 sql -e 'select 1'
	{
		echo "CREATE USER IF NOT EXISTS 'openstack'@'$ip' IDENTIFIED BY '$password'; GRANT ALL ON *.* TO 'openstack'@'$ip';"
		for d in keystone glance placement nova_api nova_cell0 nova neutron cinder; do
			echo "CREATE DATABASE IF NOT EXISTS $d CHARACTER SET utf8mb3;"
		done
	} | sql
}

# make_databases takes most of a first start: two at a time.
make_databases() {
	local first second etc=$state/etc
	[ ! -e "$state/databases-made" ] || return 0
	mkdir -p "$etc"/{fernet-keys,credential-keys}
	(
		once keystone-manage keystone-manage --config-file "$etc/keystone.conf" db_sync
		once keystone-manage keystone-manage --config-file "$etc/keystone.conf" fernet_setup --keystone-user root --keystone-group root
		once keystone-manage keystone-manage --config-file "$etc/keystone.conf" credential_setup --keystone-user root --keystone-group root
		OS_BOOTSTRAP_PASSWORD=$password once keystone-manage keystone-manage --config-file "$etc/keystone.conf" bootstrap \
			--bootstrap-region-id RegionOne --bootstrap-admin-url "http://$ip:$keystone/v3" \
			--bootstrap-internal-url "http://$ip:$keystone/v3" --bootstrap-public-url "http://$ip:$keystone/v3"
		once placement-manage env OS_PLACEMENT_CONFIG_DIR="$etc" "$py" "$state/py/launch.py" placement-manage \
			placement.cmd.manage:main --config-file "$etc/placement.conf" db sync
		once glance-manage glance-manage --config-file "$etc/glance-api.conf" db_sync
		once cinder-manage cinder-manage --config-file "$etc/cinder.conf" db sync
	) &
	first=$!
	(
		once nova-manage nova-manage --config-file "$etc/nova.conf" api_db sync
		once nova-manage nova-manage --config-file "$etc/nova.conf" cell_v2 map_cell0
		nova-manage --config-file "$etc/nova.conf" cell_v2 list_cells 2>/dev/null | grep -q cell1 ||
			once nova-manage nova-manage --config-file "$etc/nova.conf" cell_v2 create_cell --name cell1
		once nova-manage nova-manage --config-file "$etc/nova.conf" db sync
		once neutron-db-manage neutron-db-manage --config-file "$etc/neutron.conf" upgrade heads
	) &
	second=$!
	wait $first && wait $second || die "the databases of OpenStack were not made (see above)"
	touch "$state/databases-made"
}

start_services() {
	local n etc=$state/etc
	await rabbitmq 60 listens "$rabbitmq"
	wsgi keystone "$keystone" /usr/bin/keystone-wsgi-public OS_KEYSTONE_CONFIG_DIR="$etc" OS_KEYSTONE_CONFIG_FILES=keystone.conf
	await keystone 120 answers "$keystone"
	provision identity
	note "Keystone is up"
	wsgi placement "$placement" /usr/bin/placement-api OS_PLACEMENT_CONFIG_DIR="$etc"
	python glance-api glance.cmd.api:main --config-file "$etc/glance-api.conf"
	python neutron-server neutron.cmd.eventlet.server:main --config-file "$etc/neutron.conf"
	python nova-api nova.cmd.api_os_compute:main --config-file "$etc/nova.conf"
	python nova-conductor nova.cmd.conductor:main --config-file "$etc/nova.conf"
	python nova-scheduler nova.cmd.scheduler:main --config-file "$etc/nova.conf"
	await placement 120 answers "$placement"
	for ((n = 1; n <= computes; n++)); do
		python "nova-cmp$n" nova.cmd.compute:main --config-file "$etc/nova.conf" --config-file "$etc/nova-cmp$n.conf"
	done
	python cinder-api cinder.cmd.api:main --config-file "$etc/cinder.conf"
	python cinder-scheduler cinder.cmd.scheduler:main --config-file "$etc/cinder.conf"
	python cinder-volume cinder.cmd.volume:main --config-file "$etc/cinder.conf"
	await glance-api 120 answers "$glance"
	await neutron-server 120 answers "$neutron"
	await nova-api 120 answers "$nova"
	await cinder-api 120 answers "$cinder"
}

has_hosts() { [ "$(sql -N nova -e 'select count(*) from compute_nodes where deleted=0')" -ge "$computes" ]; }

choose_ports
render
start_stores
make_databases
note "the databases are made"
start_services
await "nova-cmp$computes" 120 has_hosts
if [ "$(sql -N nova_api -e 'select count(*) from host_mappings')" -lt "$computes" ]; then
	once nova-manage nova-manage --config-file "$state/etc/nova.conf" cell_v2 discover_hosts
fi
provision resources
note "OpenStack is up: $state/openrc (administrator), $state/openrc-alice, $state/openrc-bob, $state/openrc-dbaas"
