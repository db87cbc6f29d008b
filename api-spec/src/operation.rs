// SPDX-License-Identifier: Apache-2.0
//! Every operation of the Engine API by its operationId. The same name is the handler, the use case,
//! the span, the client's method and the test.

use std::fmt;

macro_rules! operations {
    ($($(#[$doc:meta])* $noun:ident: $($name:ident)+;)+) => {
        /// An operation, named as the API description names it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)] // The names are the API's own.
        pub enum Operation { $($($name,)+)+ }

        /// The group an operation belongs to: the tag of the API description.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Noun { $($(#[$doc])* $noun,)+ }

        impl Operation {
            /// All of them.
            pub const ALL: &'static [Self] = &[$($(Self::$name,)+)+];

            /// The operationId.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $($(Self::$name => stringify!($name),)+)+ }
            }

            /// Its group.
            #[must_use]
            pub const fn noun(self) -> Noun {
                match self { $($(Self::$name => Noun::$noun,)+)+ }
            }
        }
    };
}

operations! {
    /// The engine itself.
    System: SystemAuth SystemInfo SystemVersion SystemPing SystemPingHead SystemEvents SystemDataUsage;
    /// Containers.
    Container: ContainerList ContainerCreate ContainerInspect ContainerTop ContainerLogs ContainerChanges
        ContainerExport ContainerStats ContainerResize ContainerStart ContainerStop ContainerRestart
        ContainerKill ContainerUpdate ContainerRename ContainerPause ContainerUnpause ContainerAttach
        ContainerAttachWebsocket ContainerWait ContainerDelete ContainerArchiveInfo ContainerArchive
        PutContainerArchive ContainerPrune;
    /// Further processes in containers.
    Exec: ContainerExec ExecStart ExecResize ExecInspect;
    /// Images.
    Image: ImageList ImageCreate ImageInspect ImageAttestations ImageHistory ImagePush ImageTag ImageDelete
        ImageSearch ImagePrune ImageCommit ImageGet ImageGetAll ImageLoad;
    /// Builds.
    Build: ImageBuild BuildPrune;
    /// Networks.
    Network: NetworkList NetworkInspect NetworkDelete NetworkCreate NetworkConnect NetworkDisconnect
        NetworkPrune;
    /// Volumes.
    Volume: VolumeList VolumeCreate VolumeInspect VolumeUpdate VolumeDelete VolumePrune;
    /// What a registry says about an image.
    Distribution: DistributionInspect;
    /// The reverse connection that a builder uses.
    Session: Session;
    /// Managed plugins.
    Plugin: PluginList GetPluginPrivileges PluginPull PluginInspect PluginDelete PluginEnable PluginDisable
        PluginUpgrade PluginCreate PluginPush PluginSet;
    /// Swarm.
    Swarm: SwarmInspect SwarmInit SwarmJoin SwarmLeave SwarmUpdate SwarmUnlockkey SwarmUnlock;
    /// Nodes of a swarm.
    Node: NodeList NodeInspect NodeDelete NodeUpdate;
    /// Services of a swarm.
    Service: ServiceList ServiceCreate ServiceInspect ServiceDelete ServiceUpdate ServiceLogs;
    /// Tasks of a swarm.
    Task: TaskList TaskInspect TaskLogs;
    /// Secrets of a swarm.
    Secret: SecretList SecretCreate SecretInspect SecretDelete SecretUpdate;
    /// Configs of a swarm.
    Config: ConfigList ConfigCreate ConfigInspect ConfigDelete ConfigUpdate;
    /// Routed by the reference but not in its API description.
    Unlisted: Grpc BuildCancel CheckpointList CheckpointCreate CheckpointDelete DebugVars DebugPprof BerthSystemCheck;
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_description_has_108_operations() {
        let listed = Operation::ALL.iter().filter(|o| o.noun() != Noun::Unlisted).count();
        assert_eq!(listed, 108);
    }

    #[test]
    fn names_are_the_operation_ids() {
        assert_eq!(Operation::ContainerPause.name(), "ContainerPause");
        assert_eq!(Operation::ImageGetAll.to_string(), "ImageGetAll");
    }
}
