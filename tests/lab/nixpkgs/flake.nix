# As much of nixpkgs as nix-ferry's flake uses, for a machine without a network.
{
  outputs =
    { ... }:
    let
      lib = import ./lib.nix;
      pkgs = import ./pkgs.nix;
    in
    {
      inherit lib;
      legacyPackages = lib.genAttrs [ "aarch64-linux" "x86_64-linux" ] pkgs;
    };
}
