# services.nix-ferry: have the Nix daemon run nix-ferry's build hook.  Machines are described as before, in
# `nix.buildMachines`, with `nix.distributedBuilds = true`.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.services.nix-ferry;
  toml = pkgs.formats.toml { };
  hook = "${cfg.package}/bin/nix-ferry-hook";
  release = config.nix.package.version;
  ignoresNixConf = lib.versionAtLeast release "2.25" && lib.versionOlder release "2.34";
in
{
  options.services.nix-ferry = {
    enable = lib.mkEnableOption "nix-ferry, a replacement for Nix's build hook";

    package = lib.mkOption {
      type = lib.types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = lib.literalMD "the package of this repository";
      description = "The nix-ferry to use.";
    };

    settings = lib.mkOption {
      type = toml.type;
      default = { };
      example = {
        connect-timeout = 10;
      };
      description = "What ferry.toml says, see {manpage}`ferry.toml(5)`.";
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    environment.etc."nix/ferry.toml" = lib.mkIf (cfg.settings != { }) {
      source = toml.generate "ferry.toml" cfg.settings;
    };
    nix.settings.build-hook = hook;
    # These releases read it from the environment of the daemon only.
    systemd.services.nix-daemon.environment = lib.mkIf ignoresNixConf {
      NIX_CONFIG = "build-hook = ${hook}";
    };
  };
}
