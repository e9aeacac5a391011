// Package config is the operator's configuration: one YAML file, decoded strictly into one struct.
//
// Every option is a promise to keep, so there are few. docs/configuration.md describes each; a test compares the two.
package config

import (
	"time"

	"github.com/grove-dbaas/grove/internal/dbaas"
)

// Config is the whole configuration of a control-plane process.
type Config struct {
	Listen         string         `yaml:"listen" doc:"address that the API listens on"`
	PublicEndpoint string         `yaml:"public_endpoint" doc:"base URL that clients see, for links; empty takes the request's own host"`
	Data           string         `yaml:"data" doc:"directory of the embedded mode: database, master key, servers"`
	Region         string         `yaml:"region" doc:"name of the region that this installation serves"`
	MasterKey      string         `yaml:"master_key" doc:"file of the master keys that seal secrets; empty is master.key in the data directory"`
	Database       Database       `yaml:"database"`
	RPC            RPC            `yaml:"rpc"`
	API            API            `yaml:"api"`
	Keystone       Keystone       `yaml:"keystone"`
	Taskmanager    Taskmanager    `yaml:"taskmanager"`
	Janitor        Janitor        `yaml:"janitor"`
	Guests         Guests         `yaml:"guests"`
	Cloud          Cloud          `yaml:"cloud"`
	Quotas         map[string]int `yaml:"quotas" doc:"default limits of a project by resource (instances, volumes in GB, backups, ram in MB); -1 is unlimited"`
	MaxVolumeSize  int            `yaml:"max_volume_size" doc:"largest volume that may be asked for, in GB"`
	Retention      Retention      `yaml:"retention"`
	Log            Log            `yaml:"log"`
	Metrics        Metrics        `yaml:"metrics"`
}

// Database is where the rows are kept.
type Database struct {
	URL string `yaml:"url" secret:"true" doc:"postgres://… or sqlite:///path; empty is a SQLite file in the data directory"`
}

// RPC is how the control plane reaches its guests.
type RPC struct {
	URL           string `yaml:"url" secret:"true" doc:"amqp:// URL of RabbitMQ; empty carries messages inside the process, which only the embedded mode can"`
	CAFile        string `yaml:"ca_file" doc:"certificates of those who sign RabbitMQ's, in PEM (groved certificates init makes them); with it messages travel by TLS alone; guests are given it. Empty trusts the system's"`
	ManagementURL string `yaml:"management_url" secret:"true" doc:"URL of RabbitMQ's management API, for the guests' accounts"`
	GuestURL      string `yaml:"guest_url" doc:"amqp:// URL, without a login, by which guests reach RabbitMQ; empty is the control plane's own"`
}

// API is how the REST API behaves.
type API struct {
	Auth         string         `yaml:"auth" doc:"none: the project is taken from the path; keystone: requests carry a Keystone token"`
	TokenCache   time.Duration  `yaml:"token_cache" doc:"how long Keystone's word on a token is believed; a revoked one is refused after it at the latest"`
	PolicyFile   string         `yaml:"policy_file" doc:"YAML file of rules, in the language of oslo.policy, that replace Trove's of the same name"`
	CORSOrigins  []string       `yaml:"cors_origins" doc:"origins that browsers may call from; none by default"`
	MaxBody      int64          `yaml:"max_body" doc:"largest request body in bytes"`
	PageSize     int            `yaml:"page_size" doc:"default and largest number of rows on a page"`
	RateLimits   map[string]int `yaml:"rate_limits" doc:"requests per minute and project by verb; a verb that is absent or 0 is not limited"`
	ShutdownWait time.Duration  `yaml:"shutdown_wait" doc:"how long requests under way may take to end on shutdown"`
}

// Keystone is the OpenStack cloud's identity service, and Grove's account in it.
type Keystone struct {
	AuthURL       string        `yaml:"auth_url" doc:"URL of the identity service with its version: https://keystone.example/v3"`
	Username      string        `yaml:"username" doc:"Grove's account"`
	Password      string        `yaml:"password" secret:"whole" doc:"and its password"`
	UserDomain    string        `yaml:"user_domain" doc:"name of the account's domain"`
	Project       string        `yaml:"project" doc:"project of the account, which owns servers, volumes and ports"`
	ProjectDomain string        `yaml:"project_domain" doc:"name of the project's domain; empty is the account's"`
	CAFile        string        `yaml:"ca_file" doc:"certificates to trust, in PEM; empty trusts the system's"`
	Timeout       time.Duration `yaml:"timeout" doc:"how long one request to the cloud may take"`
}

// Taskmanager is how operations are worked off.
type Taskmanager struct {
	Workers int           `yaml:"workers" doc:"operations worked on at the same time"`
	Lease   time.Duration `yaml:"lease" doc:"how long a crashed taskmanager's operations wait before another takes them over"`
}

// Janitor is how the cloud is compared with the rows.
type Janitor struct {
	Every  time.Duration `yaml:"every" doc:"time between two comparisons of the cloud with the rows; 0 is never"`
	Age    time.Duration `yaml:"age" doc:"how long they must have disagreed on something before it is told of, and before anything is done about it"`
	Delete bool          `yaml:"delete" doc:"delete what the cloud has and no row accounts for, without being asked to (grove janitor)"`
}

// Guests is what every guest agent is told.
type Guests struct {
	Heartbeat    time.Duration `yaml:"heartbeat" doc:"time between two signs of life"`
	FirstContact time.Duration `yaml:"first_contact" doc:"how long the agent of a new server may take until it first reports, the server's boot included"`
	AgentTrial   time.Duration `yaml:"agent_trial" doc:"how long a new agent may take to reach RabbitMQ before the one that it replaced is put back"`
}

// Cloud is what provides servers, volumes and networks.
type Cloud struct {
	Provider  string     `yaml:"provider" doc:"local: servers are directories and processes on this machine; openstack: Nova, Cinder, Neutron and Glance, as the account in keystone"`
	Local     LocalCloud `yaml:"local"`
	OpenStack OpenStack  `yaml:"openstack"`
}

// OpenStack configures the provider of that name.
type OpenStack struct {
	Network    string   `yaml:"network" doc:"id of the network of guests whose tenant names none"`
	Management string   `yaml:"management_network" doc:"id of a network from which guests reach RabbitMQ: each has a second interface there, which lets nobody in; empty is none, and they reach it from their own"`
	External   string   `yaml:"external_network" doc:"id of the network of public addresses (access.is_public); empty is the only one that there is"`
	ImageTags  []string `yaml:"image_tags" doc:"tags that choose the image of a datastore version with neither an image nor tags: the youngest that has them all"`
	Interface  string   `yaml:"interface" doc:"which endpoints of the catalog: public, internal or admin"`
}

// LocalCloud configures the local provider.
type LocalCloud struct {
	Network       string             `yaml:"network" doc:"loopback network that servers get their addresses from"`
	NetworkMode   string             `yaml:"network_mode" doc:"loopback: servers share this machine's network; namespaces: each has a network namespace of its own, which can be cut off (needs root and iproute2)"`
	Agents        string             `yaml:"agents" doc:"embedded: agents run inside groved; process: each is a grove-agent of its own, which needs rpc.url"`
	AgentBinary   string             `yaml:"agent_binary" doc:"grove-agent program for agents: process; empty is the one beside groved"`
	Volumes       string             `yaml:"volumes" doc:"loop: loop devices with a filesystem (needs root); directory: directories with their size accounted; auto: loop where possible"`
	KeepDatabases bool               `yaml:"keep_databases" doc:"leave databases running after a clean exit; they are adopted at the next start"`
	Shared        bool               `yaml:"shared" doc:"the cloud is one that groved cloud runs on the same machine and data directory, so that several taskmanagers may use it"`
	Flavors       []dbaas.Flavor     `yaml:"flavors" doc:"sizes of servers"`
	VolumeTypes   []dbaas.VolumeType `yaml:"volume_types" doc:"kinds of volumes"`
	Networks      []dbaas.Network    `yaml:"networks" doc:"further loopback networks that an instance's nics may name"`
	Zones         []string           `yaml:"zones" doc:"availability zones"`
}

// Retention is how long what has ended is kept.
type Retention struct {
	Operations  time.Duration `yaml:"operations" doc:"ended operations and their steps"`
	Events      time.Duration `yaml:"events" doc:"events"`
	Idempotency time.Duration `yaml:"idempotency" doc:"answers kept for Idempotency-Key"`
	Deleted     time.Duration `yaml:"deleted" doc:"rows of deleted instances"`
}

// Log is what is written to standard error.
type Log struct {
	Level  string `yaml:"level" doc:"debug, info, warn or error"`
	Format string `yaml:"format" doc:"text or json"`
}

// Metrics is where a role without an API shows its metrics.
type Metrics struct {
	Listen string `yaml:"listen" doc:"address of /metrics and /healthcheck of a taskmanager process; empty is none"`
}

const day = 24 * time.Hour

// Defaults is the configuration of `groved dev` with nothing configured.
func Defaults() Config {
	return Config{
		Listen:      "127.0.0.1:8779",
		Data:        defaultDataDir(),
		Region:      "RegionOne",
		Keystone:    Keystone{UserDomain: "Default", Timeout: time.Minute},
		API:         API{Auth: "none", TokenCache: time.Minute, MaxBody: 1 << 20, PageSize: 20, ShutdownWait: 10 * time.Second},
		Taskmanager: Taskmanager{Workers: 16, Lease: 15 * time.Second},
		Guests:      Guests{Heartbeat: 10 * time.Second, FirstContact: 15 * time.Minute, AgentTrial: time.Minute},
		Cloud: Cloud{Provider: "local", Local: LocalCloud{
			Network: "127.77.0.0/16", NetworkMode: "loopback", Agents: "embedded", Volumes: "auto",
			Flavors: []dbaas.Flavor{
				{ID: "1", Name: "db.tiny", RAM: 512, VCPUs: 1, Disk: 5},
				{ID: "2", Name: "db.small", RAM: 1024, VCPUs: 1, Disk: 10},
				{ID: "3", Name: "db.medium", RAM: 2048, VCPUs: 2, Disk: 20},
				{ID: "4", Name: "db.large", RAM: 4096, VCPUs: 2, Disk: 40},
			},
			VolumeTypes: []dbaas.VolumeType{{ID: "local", Name: "local", IsPublic: true}},
			Zones:       []string{"nova"},
		}, OpenStack: OpenStack{Interface: "public"}},
		Quotas:        map[string]int{dbaas.QuotaInstances: 100, dbaas.QuotaVolumes: 1000, dbaas.QuotaBackups: 50, dbaas.QuotaRAM: -1},
		MaxVolumeSize: 100,
		Janitor:       Janitor{Every: 10 * time.Minute, Age: time.Hour},
		Retention:     Retention{Operations: 30 * day, Events: 90 * day, Idempotency: day, Deleted: 7 * day},
		Log:           Log{Level: "info", Format: "text"},
	}
}

// ProductionDefaults are the defaults of every command but `groved dev`: quotas that fit one default sharded MongoDB
// cluster (three members, three config servers, one mongos) and a shard more, and Trove's rate limits.
func ProductionDefaults() Config {
	c := Defaults()
	c.Quotas = map[string]int{dbaas.QuotaInstances: 15, dbaas.QuotaVolumes: 200, dbaas.QuotaBackups: 50, dbaas.QuotaRAM: -1}
	c.API.RateLimits = map[string]int{"GET": 200, "POST": 200, "PUT": 200, "PATCH": 200, "DELETE": 200}
	return c
}
